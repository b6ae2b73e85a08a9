//! PURE. What a power cut spares, decided by a seed.

/// Says of one thing after the other whether it had reached the disk.
#[derive(Debug)]
pub struct Mercy {
    random: fastrand::Rng,
    mood: Mood,
}

/// A coin for each sector alone would almost never leave a write whole, or cut it where it was interrupted.
#[derive(Clone, Copy, Debug)]
enum Mood {
    Nothing,
    Everything,
    /// The first ones: each may be the last, one time in so many.
    First(u8),
    Any,
}

impl Mercy {
    /// As the seed has it; 0 spares nothing.
    pub fn of(seed: u64) -> Self {
        if seed == 0 {
            return Self { random: fastrand::Rng::with_seed(0), mood: Mood::Nothing };
        }
        let mut random = fastrand::Rng::with_seed(seed);
        let first = Mood::First(1 << random.u8(1..8));
        let mood = [Mood::Nothing, Mood::Everything, first, Mood::Any][random.usize(0..4)];
        Self { random, mood }
    }

    /// Half of the things, whatever else the seed would say.
    pub fn half(seed: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), mood: Mood::Any }
    }

    /// Whether the next thing is there.
    pub fn keeps(&mut self) -> bool {
        match self.mood {
            Mood::Nothing => false,
            Mood::Everything => true,
            Mood::Any => self.random.bool(),
            Mood::First(odds) => {
                if self.random.u8(0..odds) == 0 {
                    self.mood = Mood::Nothing;
                }
                true
            }
        }
    }
}
