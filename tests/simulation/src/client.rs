//! Injectors: connect to the relay, send messages in all ways that clients have, and note what they were told.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use ringpost::net;
use ringpost::net::simulated::World;

use crate::ledger::{Ledger, Told};
use crate::mail::{Mail, asks_for_success, must_bounce, stuffed};
use crate::wire::{Gone, Wire};

/// How a client sends.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// Sends the whole envelope, and DATA, without waiting for replies.
    pub pipelines: bool,
    /// Sends by BDAT.
    pub chunks: bool,
    /// Messages of one connection.
    pub messages: u32,
    /// Longest pause between messages.
    pub pause: Duration,
    /// Gives connections up in the middle, now and then.
    pub breaks_off: bool,
}

impl Habits {
    /// Any.
    pub fn by_chance(random: &mut fastrand::Rng, breaks_off: bool) -> Self {
        Self {
            pipelines: random.bool(),
            chunks: random.u8(..3) == 0,
            messages: random.u32(1..12),
            pause: Duration::from_millis(random.u64(..20_000)),
            breaks_off: breaks_off && random.u8(..3) == 0,
        }
    }
}

/// Sends `mails`, none twice; what a lost connection leaves unanswered stays unknown.
pub async fn run(
    world: World,
    relay: SocketAddr,
    habits: Habits,
    mails: Vec<Mail>,
    ledger: Rc<RefCell<Ledger>>,
) {
    let mut mails = mails.into_iter().peekable();
    while mails.peek().is_some() {
        // The relay may be down: try again later, as clients do.
        if let Ok(mut wire) = open(relay).await {
            let mut ended = Ok(());
            for _ in 0..habits.messages {
                if ended.is_err() {
                    break;
                }
                let Some(mail) = mails.next() else { break };
                ended = send(&world, &mut wire, habits, &mail, &ledger).await;
                pause(&world, habits.pause).await;
            }
            if ended.is_ok() {
                let _ = wire.send(b"QUIT\r\n").await;
            }
        }
        pause(&world, habits.pause + Duration::from_secs(1)).await;
    }
}

async fn pause(world: &World, most: Duration) {
    let time = world.random(|random| random.u64(..=most.as_micros() as u64));
    net::sleep(Duration::from_micros(time)).await;
}

async fn open(relay: SocketAddr) -> Result<Wire, Gone> {
    let mut wire = Wire::connect(relay).await?;
    if wire.reply().await?.0 != 220 {
        return Err(Gone);
    }
    wire.send(b"EHLO injector.test\r\n").await?;
    if wire.reply().await?.0 == 250 { Ok(wire) } else { Err(Gone) }
}

/// One transaction. `Err` when the connection is of no use any more.
async fn send(
    world: &World,
    wire: &mut Wire,
    habits: Habits,
    mail: &Mail,
    ledger: &RefCell<Ledger>,
) -> Result<(), Gone> {
    let tell = |recipients: &[usize], told| {
        for nth in recipients {
            ledger.borrow_mut().told(mail.recipients[*nth].0, told);
        }
    };
    let all: Vec<usize> = (0..mail.recipients.len()).collect();
    for (recipient, mailbox) in &mail.recipients {
        ledger.borrow_mut().sending(*recipient, must_bounce(*recipient, mailbox));
    }
    tell(&all, Told::Unknown);
    let Envelope { taken, reply } = envelope(wire, habits, mail).await?;
    let refused: Vec<usize> = all.iter().copied().filter(|nth| !taken.contains(nth)).collect();
    tell(&refused, Told::Refused);
    if taken.is_empty() {
        return Ok(());
    }
    if !habits.chunks && reply != Some(354) {
        tell(&taken, Told::Refused);
        return Ok(());
    }
    let body = if habits.chunks { chunks(world, &mail.body) } else { stuffed(&mail.body) };
    if habits.breaks_off && world.random(|random| random.u8(..4)) == 0 {
        let some = world.random(|random| random.usize(..body.len()));
        wire.send(&body[..some]).await?;
        return Err(Gone);
    }
    wire.send(&body).await?;
    let replies = if habits.chunks { chunk_count(&body) } else { 1 };
    let mut last = (0, String::new());
    for _ in 0..replies {
        last = wire.reply().await?;
        if last.0 != 250 {
            break;
        }
    }
    tell(&taken, if last.0 == 250 { Told::Accepted } else { Told::Refused });
    // A refused chunk leaves us out of step with the others: begin anew.
    if last.0 == 250 || !habits.chunks { Ok(()) } else { Err(Gone) }
}

struct Envelope {
    /// Which recipients were taken.
    taken: Vec<usize>,
    /// To DATA.
    reply: Option<u16>,
}

async fn envelope(wire: &mut Wire, habits: Habits, mail: &Mail) -> Result<Envelope, Gone> {
    let mut commands = vec![format!("MAIL FROM:<{}>\r\n", mail.sender())];
    commands.extend(mail.recipients.iter().map(|(recipient, mailbox)| {
        let notify = if asks_for_success(*recipient) { " NOTIFY=SUCCESS,FAILURE" } else { "" };
        format!("RCPT TO:<{mailbox}>{notify}\r\n")
    }));
    if !habits.chunks {
        commands.push("DATA\r\n".to_owned());
    }
    let mut codes = Vec::new();
    if habits.pipelines {
        wire.send(commands.concat().as_bytes()).await?;
        for _ in &commands {
            codes.push(wire.reply().await?.0);
        }
    } else {
        for command in &commands {
            wire.send(command.as_bytes()).await?;
            codes.push(wire.reply().await?.0);
            if codes.len() == 1 && codes[0] != 250 {
                break;
            }
        }
    }
    let count = mail.recipients.len();
    let taken = (0..count).filter(|nth| codes.get(nth + 1) == Some(&250)).collect();
    Ok(Envelope { taken, reply: codes.get(count + 1).copied() })
}

/// The body as BDAT commands with their bytes.
fn chunks(world: &World, body: &[u8]) -> Vec<u8> {
    let size = world.random(|random| random.usize(1_000..120_000));
    let mut out = Vec::new();
    for (nth, chunk) in body.chunks(size).enumerate() {
        let last = if (nth + 1) * size >= body.len() { " LAST" } else { "" };
        out.extend_from_slice(format!("BDAT {}{last}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
    }
    out
}

/// How many commands `chunks` made: one reply for each.
fn chunk_count(wire: &[u8]) -> usize {
    let (mut rest, mut count) = (wire, 0);
    while !rest.is_empty() {
        let end = rest.windows(2).position(|pair| pair == b"\r\n").expect("a command line");
        let line = String::from_utf8_lossy(&rest[..end]);
        let bytes: usize =
            line.split(' ').nth(1).and_then(|bytes| bytes.parse().ok()).expect("BDAT with its size");
        rest = &rest[end + 2 + bytes..];
        count += 1;
    }
    count
}
