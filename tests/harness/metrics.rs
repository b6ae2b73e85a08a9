//! A strict reader of the Prometheus text format (version 0.0.4): what a lenient scraper forgives is an error here.

use std::collections::{BTreeMap, BTreeSet};

/// One sample.
#[derive(Clone, Debug)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// A page that was read without an error.
#[derive(Debug)]
pub struct Page {
    pub samples: Vec<Sample>,
    /// Family → type.
    pub types: BTreeMap<String, String>,
}

impl Page {
    /// Reads and checks the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut page = Self { samples: Vec::new(), types: BTreeMap::new() };
        let (mut helped, mut seen, mut family) = (BTreeSet::new(), BTreeSet::new(), String::new());
        if !text.ends_with('\n') {
            return Err("the last line has no end".into());
        }
        for line in text.lines() {
            let wrong = |what: &str| format!("{what}: {line}");
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, words) = rest.split_once(' ').ok_or_else(|| wrong("help without words"))?;
                if words.is_empty() || !helped.insert(name.to_owned()) {
                    return Err(wrong("help empty or twice"));
                }
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').ok_or_else(|| wrong("type without kind"))?;
                if !["counter", "gauge", "histogram"].contains(&kind) || !is_name(name) {
                    return Err(wrong("odd name or type"));
                }
                if page.types.insert(name.to_owned(), kind.to_owned()).is_some() {
                    return Err(wrong("a family twice"));
                }
                family = name.to_owned();
            } else {
                let sample = sample(line).ok_or_else(|| wrong("no sample"))?;
                if !belongs(&sample.name, &family, &page.types) {
                    return Err(wrong("a sample outside its family"));
                }
                if !seen.insert((sample.name.clone(), sample.labels.clone())) {
                    return Err(wrong("a series twice"));
                }
                if page.types[&family] != "gauge" && sample.value < 0.0 {
                    return Err(wrong("a negative count"));
                }
                page.samples.push(sample);
            }
        }
        if helped.len() != page.types.len() {
            return Err("a family without help".into());
        }
        page.check_histograms()?;
        Ok(page)
    }

    /// The sum of a family's samples that have these labels; the family must be there.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |sample: &&Sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(label, value)| sample.labels.get(*label).is_some_and(|have| have == value))
        };
        let found: Vec<_> = self.samples.iter().filter(has).collect();
        assert!(!found.is_empty(), "no series {name}{labels:?}");
        found.iter().map(|sample| sample.value).sum()
    }

    /// Buckets rise to `+Inf`, which is the count.
    fn check_histograms(&self) -> Result<(), String> {
        for family in self.types.iter().filter(|(_, kind)| *kind == "histogram").map(|(name, _)| name) {
            let mut rows: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
            for sample in self.samples.iter().filter(|sample| sample.name == format!("{family}_bucket")) {
                let mut labels = sample.labels.clone();
                let le = labels.remove("le").ok_or_else(|| format!("{family}: a bucket without le"))?;
                let bound = if le == "+Inf" { Ok(f64::INFINITY) } else { le.parse() };
                let bound = bound.map_err(|_| format!("{family}: le={le}"))?;
                rows.entry(labels).or_default().push((bound, sample.value));
            }
            for (labels, row) in rows {
                let rises = row.windows(2).all(|two| two[0].0 < two[1].0 && two[0].1 <= two[1].1);
                let pairs: Vec<_> =
                    labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
                let count = self.sum(&format!("{family}_count"), &pairs);
                let last = row.last().copied().unwrap_or((0.0, -1.0));
                self.sum(&format!("{family}_sum"), &pairs);
                if !rises || last != (f64::INFINITY, count) {
                    return Err(format!("{family}{labels:?}: buckets do not rise to the count: {row:?}"));
                }
            }
        }
        Ok(())
    }
}

fn belongs(name: &str, family: &str, types: &BTreeMap<String, String>) -> bool {
    match (types.get(family).map(String::as_str), name.strip_prefix(family)) {
        (Some("histogram"), Some(rest)) => ["_bucket", "_sum", "_count"].contains(&rest),
        (Some(_), Some(rest)) => rest.is_empty(),
        _ => false,
    }
}

fn is_name(name: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_';
    name.starts_with(letter) && name.chars().all(|c| letter(c) || c.is_ascii_digit())
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok().filter(|value: &f64| value.is_finite())?;
    let mut labels = BTreeMap::new();
    let name = match series.split_once('{') {
        None => series,
        Some((name, rest)) => {
            let mut rest = rest.strip_suffix('}')?;
            while !rest.is_empty() {
                let (label, more) = rest.split_once("=\"")?;
                let end = closing_quote(more)?;
                if !is_name(label) || labels.insert(label.to_owned(), more[..end].to_owned()).is_some() {
                    return None;
                }
                rest = &more[end + 1..];
                rest = if rest.is_empty() { rest } else { rest.strip_prefix(',')? };
            }
            name
        }
    };
    is_name(name).then(|| Sample { name: name.to_owned(), labels, value })
}

/// Where a label's value ends: the first quote that no backslash escapes.
fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(at),
            _ => {}
        }
    }
    None
}
