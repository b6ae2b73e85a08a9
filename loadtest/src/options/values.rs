//! PURE. Values on the command line and in scenarios: sizes, times, weighted lists, distributions.

use crate::clock::Micros;
use crate::source::mix::Mix;

/// Points by which a distribution is represented: each stands for the same share.
const POINTS: usize = 64;

/// A number of bytes: `4096`, `1k`, `2m`, `1g` (powers of 1024).
pub fn bytes(text: &str) -> Option<usize> {
    let (digits, shift) = suffixed(text, &[("k", 10u32), ("m", 20), ("g", 30)]).unwrap_or((text, 0));
    let value: f64 = digits.parse().ok().filter(|value| (0.0..1e12).contains(value))?;
    Some((value * f64::from(1u32 << shift)) as usize)
}

/// A time: `250us`, `50ms`, `2s`, `1m`, or seconds without a unit.
pub fn time(text: &str) -> Option<Micros> {
    let units = [("us", 1.0), ("µs", 1.0), ("ms", 1e3), ("s", 1e6), ("m", 6e7), ("h", 3.6e9)];
    let (digits, unit) = suffixed(text, &units).unwrap_or((text, 1e6));
    let value: f64 = digits.trim().parse().ok().filter(|value| (0.0..1e9).contains(value))?;
    Some((value * unit) as Micros)
}

fn suffixed<'a, T: Copy>(text: &'a str, units: &[(&str, T)]) -> Option<(&'a str, T)> {
    units.iter().find_map(|(name, unit)| {
        let digits = text.len().checked_sub(name.len()).filter(|at| text.is_char_boundary(*at))?;
        text[digits..].eq_ignore_ascii_case(name).then_some((&text[..digits], *unit))
    })
}

/// `A=80,B=18,C=2`, or one value alone; a value without a weight weighs 1.
pub fn weighted<T>(text: &str, read: impl Fn(&str) -> Option<T>) -> Option<Vec<(T, u32)>> {
    let pair = |part: &str| {
        let (value, weight) = part.trim().split_once('=').unwrap_or((part.trim(), "1"));
        Some((read(value)?, weight.parse().ok().filter(|weight| *weight > 0)?))
    };
    text.split(',').map(pair).collect()
}

/// A distribution of positive values, as equally likely points: `lognormal:MEDIAN,SIGMA`, `uniform:A..B` or
/// `exponential:MEAN`.
pub fn distribution(text: &str, read: impl Fn(&str) -> Option<f64>) -> Option<Vec<f64>> {
    let middle = |index: usize| (index as f64 + 0.5) / POINTS as f64;
    let points = |at: &dyn Fn(f64) -> f64| (0..POINTS).map(|index| at(middle(index))).collect();
    let (name, rest) = text.split_once(':')?;
    match name {
        "lognormal" => {
            let (median, sigma) = rest.split_once(',')?;
            let median = read(median.trim())?;
            let sigma = sigma.trim().parse::<f64>().ok().filter(|sigma| (0.0..=5.0).contains(sigma))?;
            Some(points(&|share| median * (sigma * normal_quantile(share)).exp()))
        }
        "uniform" => {
            let (low, high) = rest.split_once("..")?;
            let (low, high) = (read(low)?, read(high)?);
            (low <= high).then(|| points(&|share| low + (high - low) * share))
        }
        "exponential" => {
            let mean = read(rest)?;
            Some(points(&|share| -mean * (1.0 - share).ln()))
        }
        _ => None,
    }
}

/// The value below which this share of a standard normal distribution lies. Acklam's rational approximation of the
/// middle, and for the tails; relative error below 2·10⁻⁹, far more than a load needs.
fn normal_quantile(share: f64) -> f64 {
    const A: [f64; 6] = [
        -39.696_830_286_653_76,
        220.946_098_424_520_5,
        -275.928_510_446_968_7,
        138.357_751_867_269,
        -30.664_798_066_147_16,
        2.506_628_277_459_239,
    ];
    const B: [f64; 5] = [
        -54.476_098_798_224_06,
        161.585_836_858_040_9,
        -155.698_979_859_886_6,
        66.801_311_887_719_72,
        -13.280_681_552_885_72,
    ];
    const C: [f64; 6] = [
        -0.007_784_894_002_430_293,
        -0.322_396_458_041_136_4,
        -2.400_758_277_161_838,
        -2.549_732_539_343_734,
        4.374_664_141_464_968,
        2.938_163_982_698_783,
    ];
    const D: [f64; 4] =
        [0.007_784_695_709_041_462, 0.322_467_129_070_039_8, 2.445_134_137_142_996, 3.754_408_661_907_416];
    let row = |coefficients: &[f64], x: f64| coefficients.iter().fold(0.0, |sum, part| sum * x + part);
    let tail = |share: f64| {
        let x = (-2.0 * share.ln()).sqrt();
        row(&C, x) / (row(&D, x) * x + 1.0)
    };
    if share < 0.02425 {
        tail(share)
    } else if share > 1.0 - 0.02425 {
        -tail(1.0 - share)
    } else {
        let (q, r) = (share - 0.5, (share - 0.5) * (share - 0.5));
        row(&A, r) * q / (row(&B, r) * r + 1.0)
    }
}

/// Sizes: one, a weighted list, or a distribution; with weights, each at least 1.
pub fn sizes(text: &str) -> Option<Vec<(usize, u32)>> {
    if text.contains(':') {
        let points = distribution(text, |text| bytes(text).map(|size| size as f64))?;
        return Some(points.into_iter().map(|size| (size as usize, 1)).collect());
    }
    weighted(text, bytes)
}

/// Names made from a count: `N` of the same weight, or `zipf:N`, where name `k` weighs 1/k.
pub fn named(text: &str, name: impl Fn(u32) -> String) -> Option<Mix<String>> {
    let (count, zipf) = text.strip_prefix("zipf:").map_or((text, false), |count| (count, true));
    let count: u32 = count.parse().ok().filter(|count| (1..=1_000_000).contains(count))?;
    if zipf {
        Mix::weighted((0..count).map(|index| (name(index), 1_000_000 / (index + 1))))
    } else {
        Mix::uniform((0..count).map(name).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_and_nonsense_is_not() {
        assert_eq!(["4096", "1k", "2M", "0.5k"].map(bytes), [4096, 1024, 2 << 20, 512].map(Some));
        assert_eq!(["", "k", "-1", "1x", "nan"].map(bytes), [None; 5]);
        let times = ["250us", "50ms", "2s", "1m", "0.5"].map(time);
        assert_eq!(times, [250, 50_000, 2_000_000, 60_000_000, 500_000].map(Some));
        assert_eq!(["", "ms", "-1s", "1 fortnight"].map(time), [None; 4]);
    }

    #[test]
    fn lists_carry_their_weights() {
        assert_eq!(sizes("1k=80,50k=18, 1m=2"), Some(vec![(1024, 80), (51_200, 18), (1 << 20, 2)]));
        assert_eq!(sizes("700"), Some(vec![(700, 1)]));
        for bad in ["1k=0", "1k=x", "", "1k,,2k", "lognormal:1k", "uniform:2k..1k", "gauss:1,2"] {
            assert_eq!(sizes(bad), None, "{bad}");
        }
    }

    #[test]
    fn distributions_have_their_median_and_spread() {
        let Some(points) = sizes("lognormal:8k,1") else { panic!("not read") };
        assert_eq!(points.len(), POINTS);
        assert!(points.windows(2).all(|pair| pair[0].0 <= pair[1].0));
        let median = (points[POINTS / 2 - 1].0 + points[POINTS / 2].0) / 2;
        assert!(median.abs_diff(8192) < 100, "{median}");
        // The 97.7 % quantile of a standard normal is 2, so e² times the median.
        let high = points[62].0 as f64 / 8192.0;
        assert!((6.5..8.5).contains(&high), "{high}");
        assert!((normal_quantile(0.975) - 1.959_964).abs() < 1e-5);
        assert!((normal_quantile(0.001) + 3.090_232).abs() < 1e-5);
    }

    #[test]
    fn zipf_prefers_the_first_names() {
        let Some(names) = named("zipf:100", |index| format!("d{index}")) else { panic!("not read") };
        let first = (0..10_000u64).filter(|n| names.pick(crate::wire::template::mix(*n)) == "d0").count();
        assert!((1_700..2_200).contains(&first), "{first}");
        assert_eq!(named("0", |_| String::new()), None);
    }
}
