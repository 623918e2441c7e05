//! Choosing a backend: Vose's alias table for weights, binary search for a known id.

/// One row of an alias table: a draw that falls on the row keeps it when its fraction is below `threshold`,
/// else takes row `alias`. A row that is always kept names itself as alias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alias {
    /// Share of the draws that keep the row, in 2^-32.
    pub threshold: u32,
    /// The other row, relative to the first.
    pub alias: u32,
}

/// The row and the fraction that a random number falls on.
#[inline(always)]
#[must_use]
pub const fn draw(random: u32, rows: u32) -> (u32, u32) {
    let product = random as u64 * rows as u64;
    ((product >> 32) as u32, product as u32)
}

/// Steps that find an id among any number of slots that a table can have.
pub const SEARCH_STEPS: u32 = 20;

/// Fills the alias table of the weights: `rows` has one row for each weight. Returns `false` when
/// all weights are zero: then no row may be drawn.
pub fn fill(weights: &[u32], rows: &mut [Alias], scratch: &mut [u64]) -> bool {
    let n = weights.len() as u64;
    let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
    if total == 0 {
        return false;
    }
    // Shares are scaled so that the average is `total`: row i has weight[i] * n against it.
    for (i, (share, row)) in scratch.iter_mut().zip(rows.iter_mut()).enumerate() {
        *share = u64::from(weights[i]) * n;
        *row = Alias { threshold: u32::MAX, alias: i as u32 };
    }
    let mut small = 0;
    let mut large = 0;
    let mut current = None;
    loop {
        // `current` is a row that became small by giving; else the next small one in order.
        let s = match current.take() {
            Some(s) => s,
            None => {
                while small < rows.len() && scratch[small] >= total {
                    small += 1;
                }
                if small == rows.len() {
                    return true;
                }
                small += 1;
                small - 1
            }
        };
        while large < rows.len() && scratch[large] <= total {
            large += 1;
        }
        if large == rows.len() {
            return true;
        }
        let threshold = ((u128::from(scratch[s]) << 32) / u128::from(total)) as u32;
        rows[s] = Alias { threshold, alias: large as u32 };
        scratch[large] -= total - scratch[s];
        if scratch[large] < total && large < small {
            current = Some(large);
        }
        // The row is settled; keep the scans from taking it again.
        scratch[s] = total;
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::{vec, vec::Vec};

    use super::*;

    fn shares(weights: &[u32]) -> Vec<f64> {
        let mut rows = vec![Alias { threshold: 0, alias: 0 }; weights.len()];
        assert!(fill(weights, &mut rows, &mut vec![0; weights.len()]));
        let mut shares = vec![0.0; weights.len()];
        for (i, row) in rows.iter().enumerate() {
            let kept = if row.alias as usize == i { 1.0 } else { f64::from(row.threshold) / 4_294_967_296.0 };
            shares[i] += kept / weights.len() as f64;
            shares[row.alias as usize] += (1.0 - kept) / weights.len() as f64;
        }
        shares
    }

    #[test]
    fn shares_equal_the_weights() {
        let mut seed = 7_u64;
        for n in 1..60 {
            let weights: Vec<u32> = (0..n)
                .map(|_| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (seed >> 40) as u32 % 101
                })
                .collect();
            let total: u32 = weights.iter().sum();
            if total == 0 {
                continue;
            }
            for (share, weight) in shares(&weights).iter().zip(&weights) {
                assert!((share - f64::from(*weight) / f64::from(total)).abs() < 1e-6, "{weights:?}");
            }
        }
    }

    #[test]
    fn a_zero_weight_is_never_drawn() {
        let weights = [0, 3, 0, 1];
        let mut rows = [Alias { threshold: 0, alias: 0 }; 4];
        assert!(fill(&weights, &mut rows, &mut [0; 4]));
        for (i, row) in rows.iter().enumerate() {
            assert_ne!(weights[row.alias as usize], 0);
            assert!(weights[i] != 0 || row.threshold == 0);
        }
    }

    #[test]
    fn all_zero_is_reported() {
        assert!(!fill(&[0, 0], &mut [Alias { threshold: 0, alias: 0 }; 2], &mut [0; 2]));
    }

    #[test]
    fn draws_cover_every_row_and_no_other() {
        assert_eq!(draw(0, 3).0, 0);
        assert_eq!(draw(u32::MAX, 3).0, 2);
        assert_eq!(draw(u32::MAX / 2, 2).0, 0);
    }
}
