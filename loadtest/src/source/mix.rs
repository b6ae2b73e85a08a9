//! PURE. Weighted choices. A choice is a function of a number, so a run is repeated by its seed.

/// Things to choose from, each with a weight. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mix<T> {
    items: Vec<T>,
    /// Running sums of weights; empty if all weigh the same.
    ends: Vec<u64>,
}

impl<T> Mix<T> {
    /// One thing only.
    pub fn one(item: T) -> Self {
        Self { items: vec![item], ends: Vec::new() }
    }

    /// All with the same weight; `None` if there is nothing.
    pub fn uniform(items: Vec<T>) -> Option<Self> {
        (!items.is_empty()).then_some(Self { items, ends: Vec::new() })
    }

    /// By weight; things of weight 0 are left out. `None` if nothing is left.
    pub fn weighted(pairs: impl IntoIterator<Item = (T, u32)>) -> Option<Self> {
        let mut end = 0u64;
        let (mut items, mut ends) = (Vec::new(), Vec::new());
        for (item, weight) in pairs.into_iter().filter(|(_, weight)| *weight > 0) {
            end += u64::from(weight);
            items.push(item);
            ends.push(end);
        }
        if ends.len() as u64 == end {
            ends.clear();
        }
        (!items.is_empty()).then_some(Self { items, ends })
    }

    /// The choice for a well-mixed number.
    pub fn pick(&self, choice: u64) -> &T {
        let index = match self.ends.last() {
            None if self.items.len() == 1 => 0,
            None => (choice % self.items.len() as u64) as usize,
            Some(total) => {
                let place = choice % total;
                self.ends.partition_point(|end| *end <= place)
            }
        };
        &self.items[index]
    }

    /// Everything there is to choose from.
    pub fn items(&self) -> &[T] {
        &self.items
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::template::mix;

    #[test]
    fn shares_follow_weights_and_equal_weights_share_alike() {
        let share = |mix_of: &Mix<char>, item| {
            (0..10_000u64).filter(|number| *mix_of.pick(mix(*number)) == item).count()
        };
        let weighted = Mix::weighted([('a', 80), ('b', 18), ('c', 2), ('d', 0)]);
        let weighted = weighted.unwrap_or_else(|| Mix::one('x'));
        assert!((7_800..8_200).contains(&share(&weighted, 'a')));
        assert!((120..280).contains(&share(&weighted, 'c')));
        assert_eq!((share(&weighted, 'd'), weighted.items().len()), (0, 3));
        let alike = Mix::uniform(vec!['a', 'b']).unwrap_or_else(|| Mix::one('x'));
        assert!((4_700..5_300).contains(&share(&alike, 'b')));
        assert_eq!(Mix::<char>::weighted([('a', 0)]), None);
    }
}
