//! The writer's half of the index: links frontends into chains and takes them out, each by one store.
//!
//! The protocol is told in [`balancing_abi::sockets::index`]. Here is nothing but the order of loads and stores; which slots
//! are free, and when they become so again, is for the caller.

use std::mem::offset_of;

use balancing_abi::sockets::{
    Frontend, FrontendKey,
    index::{self, Seeds},
};

use crate::sys::memory::Memory;

/// Buckets, as the map holds them.
pub(crate) type Block = [u32; index::BLOCK as usize];

const CHAIN: usize = offset_of!(Frontend, chain);

/// A bucket has as many frontends as programs look at.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Crowded;

/// The word that names a slot.
#[derive(Clone, Copy, Debug)]
enum Link {
    /// The bucket's.
    Bucket,
    /// That of the frontend before it in the chain.
    Chain(u32),
}

/// The buckets and the factors of their hash.
#[derive(Debug)]
pub(crate) struct Index {
    buckets: Memory<Block>,
    seeds: Seeds,
}

impl Index {
    pub(crate) fn new(buckets: Memory<Block>, seed: u64) -> Self {
        Self { buckets, seeds: Seeds::from(seed) }
    }

    /// Number of buckets.
    pub(crate) fn len(&self) -> u32 {
        self.buckets.len() * index::BLOCK
    }

    fn load(&self, bucket: u32) -> u32 {
        self.buckets.load32(bucket / index::BLOCK, 4 * (bucket % index::BLOCK) as usize)
    }

    fn store(&mut self, bucket: u32, word: u32) {
        self.buckets.store32(bucket / index::BLOCK, 4 * (bucket % index::BLOCK) as usize, word);
    }

    fn bucket(&self, hash: u64) -> u32 {
        index::bucket(hash, index::bucket_shift(self.len()))
    }

    /// The hash of an address, which is not of this table only.
    pub(crate) fn hash(&self, key: &FrontendKey) -> u64 {
        index::hash_key(key, &self.seeds)
    }

    /// Where the slot of a key's first layer is best; see [`index::home`].
    pub(crate) fn home(&self, key: &FrontendKey) -> u32 {
        index::home(self.bucket(self.hash(key)))
    }

    /// The frontends of a bucket with their slots, as programs meet them.
    pub(crate) fn chain(&self, frontends: &Memory<Frontend>, bucket: u32) -> Vec<(u32, Frontend)> {
        let mut chain = Vec::new();
        let mut slot = index::slot(self.load(bucket));
        while slot != 0 && chain.len() < index::CHAIN as usize {
            let Some(frontend) = frontends.read(slot) else { break };
            chain.push((slot, frontend));
            slot = frontend.chain;
        }
        chain
    }

    /// The frontend of a key and its slot.
    pub(crate) fn find(&self, frontends: &Memory<Frontend>, key: &FrontendKey) -> Option<(u32, Frontend)> {
        let bucket = self.bucket(index::hash_key(key, &self.seeds));
        self.chain(frontends, bucket).into_iter().find(|(_, frontend)| frontend.key == *key)
    }

    /// Puts a slot into force for its key, in place of the one that was. The slot is completely written.
    ///
    /// # Errors
    /// [`Crowded`]; then nothing has changed.
    pub(crate) fn link(&mut self, frontends: &mut Memory<Frontend>, slot: u32) -> Result<(), Crowded> {
        let Some(new) = frontends.read(slot) else { return Err(Crowded) };
        let hash = index::hash_key(&new.key, &self.seeds);
        let bucket = self.bucket(hash);
        let chain = self.chain(frontends, bucket);
        let word = self.load(bucket);
        match position(&chain, &new.key) {
            Some((link, old)) => {
                frontends.store32(slot, CHAIN, old.chain);
                match link {
                    Link::Bucket => self.store(bucket, index::word(slot, word)),
                    Link::Chain(before) => frontends.store32(before, CHAIN, slot),
                }
            }
            None if chain.len() >= index::CHAIN as usize => return Err(Crowded),
            None => {
                frontends.store32(slot, CHAIN, index::slot(word));
                self.store(bucket, index::word(slot, word | index::filter(hash)));
            }
        }
        Ok(())
    }

    /// Takes a key out. Its slot still leads on for programs that stand on it.
    pub(crate) fn unlink(&mut self, frontends: &mut Memory<Frontend>, key: &FrontendKey) {
        let bucket = self.bucket(index::hash_key(key, &self.seeds));
        let chain = self.chain(frontends, bucket);
        let Some((link, old)) = position(&chain, key) else { return };
        // The filter may only lose a bit together with the frontend, or after it.
        let others = chain.iter().filter(|(_, frontend)| frontend.key != *key);
        let filter = others
            .fold(0, |bits, (_, frontend)| bits | index::filter(index::hash_key(&frontend.key, &self.seeds)));
        let first = match link {
            Link::Bucket => old.chain,
            Link::Chain(before) => {
                frontends.store32(before, CHAIN, old.chain);
                index::slot(self.load(bucket))
            }
        };
        self.store(bucket, index::word(first, filter));
    }

    /// Takes everything out of a bucket: what it leads to makes no sense.
    pub(crate) fn clear(&mut self, bucket: u32) {
        self.store(bucket, 0);
    }
}

/// Where a key is in a chain: the word that names its slot, and its content.
fn position(chain: &[(u32, Frontend)], key: &FrontendKey) -> Option<(Link, Frontend)> {
    let at = chain.iter().position(|(_, frontend)| frontend.key == *key)?;
    let link = if at == 0 { Link::Bucket } else { Link::Chain(chain[at - 1].0) };
    Some((link, chain[at].1))
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        os::fd::AsFd as _,
        sync::atomic::{AtomicBool, Ordering},
    };

    use balancing_abi::{TCP, mapped, sockets::Target};

    use super::*;

    fn key(number: u32) -> FrontendKey {
        FrontendKey { address: mapped(number.to_be()), port: 80, protocol: TCP, pad: 0 }
    }

    fn frontend(number: u32, version: u32) -> Frontend {
        let target = Target { address: [0; 4], port: 0, detail: 0, id: 0 };
        Frontend { key: key(number), chain: 0, next: 0, service_id: version, reference: 0, count: 0, target }
    }

    fn random(seed: &mut u64, below: u32) -> u32 {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*seed >> 33) as u32 % below
    }

    /// What programs do, in safe words.
    fn look_up(index: &Index, frontends: &Memory<Frontend>, number: u32) -> Option<u32> {
        let hash = index::hash_key(&key(number), &index.seeds);
        let word = index.load(index.bucket(hash));
        if word & index::filter(hash) == 0 {
            return None;
        }
        let mut slot = index::slot(word);
        for _ in 0..index::CHAIN {
            if slot == 0 {
                return None;
            }
            let found = frontends.read(slot)?;
            if found.key == key(number) {
                return Some(found.service_id);
            }
            slot = frontends.load32(slot, CHAIN);
        }
        None
    }

    #[test]
    fn random_changes_give_what_a_map_gives() {
        // One block of 16 buckets, so that chains are long.
        let mut index = Index::new(Memory::anonymous(1), 7);
        let mut frontends = Memory::<Frontend>::anonymous(100_001);
        let mut wanted = BTreeMap::new();
        let mut seed = 3;
        for slot in 1..=100_000 {
            let number = random(&mut seed, 60);
            if random(&mut seed, 3) == 0 {
                wanted.remove(&number);
                index.unlink(&mut frontends, &key(number));
            } else {
                wanted.insert(number, slot);
                frontends.write(slot, &frontend(number, slot));
                index.link(&mut frontends, slot).unwrap();
            }
            let asked = random(&mut seed, 60);
            assert_eq!(look_up(&index, &frontends, asked), wanted.get(&asked).copied());
        }
        for number in 0..60 {
            let found = index.find(&frontends, &key(number)).map(|(slot, _)| slot);
            assert_eq!(found, wanted.get(&number).copied());
        }
        let filters = (0..16).map(|bucket| index.load(bucket) & !(index::MAX_SLOTS - 1));
        let empty = (0..16).filter(|bucket| index.chain(&frontends, *bucket).is_empty()).count();
        assert_eq!(
            filters.filter(|bits| *bits == 0).count(),
            empty,
            "a bucket without frontends has no filter"
        );
    }

    #[test]
    fn a_crowded_bucket_refuses_and_stays_as_it_is() {
        let mut index = Index::new(Memory::anonymous(1), 7);
        let mut frontends = Memory::<Frontend>::anonymous(2_000);
        let (mut linked, mut refused) = (0, None);
        for slot in 1..2_000 {
            frontends.write(slot, &frontend(slot, slot));
            match index.link(&mut frontends, slot) {
                Ok(()) => linked += 1,
                Err(Crowded) => refused = refused.or(Some(slot)),
            }
        }
        assert_eq!(linked, 16 * index::CHAIN);
        assert_eq!(look_up(&index, &frontends, refused.unwrap()), None);
        // Those that are there can still be replaced.
        frontends.write(1_999, &frontend(1, 77));
        index.link(&mut frontends, 1_999).unwrap();
        assert_eq!(look_up(&index, &frontends, 1), Some(77));
    }

    /// Neighbours come, change and go at full speed; who stays is found every time.
    #[test]
    fn who_stays_is_found_at_every_moment() {
        const SLOTS: u32 = 600_001;
        const STAY: u32 = 1_000;
        let file =
            |name: &str| nix::sys::memfd::memfd_create(name, nix::sys::memfd::MFdFlags::empty()).unwrap();
        let files = (file("buckets"), file("frontends"));
        let open = || {
            let buckets = Memory::of_file(files.0.as_fd(), 1);
            (Index::new(buckets, 7), Memory::<Frontend>::of_file(files.1.as_fd(), SLOTS))
        };
        let over = AtomicBool::new(false);
        let (mut index, mut frontends) = open();
        for slot in 1..=10 {
            frontends.write(slot, &frontend(STAY + slot, slot));
            index.link(&mut frontends, slot).unwrap();
        }
        let looks = std::thread::scope(|scope| {
            let readers = [open(), open()].map(|(index, frontends)| {
                let over = &over;
                scope.spawn(move || {
                    let mut looks = 0_u64;
                    while !over.load(Ordering::Relaxed) {
                        for number in STAY + 1..=STAY + 10 {
                            assert!(look_up(&index, &frontends, number).is_some(), "{number} after {looks}");
                        }
                        looks += 1;
                    }
                    looks
                })
            });
            let mut seed = 3;
            for slot in 11..SLOTS {
                let number = random(&mut seed, 60);
                match random(&mut seed, 4) {
                    0 => index.unlink(&mut frontends, &key(number)),
                    // Who stays is replaced, too.
                    1 => frontends.write(slot, &frontend(STAY + 1 + number % 10, slot)),
                    _ => frontends.write(slot, &frontend(number, slot)),
                }
                if frontends.load32(slot, offset_of!(Frontend, service_id)) != 0 {
                    index.link(&mut frontends, slot).unwrap();
                }
            }
            over.store(true, Ordering::Relaxed);
            readers.map(|reader| reader.join().unwrap())
        });
        assert!(looks.iter().all(|looks| *looks > 0), "{looks:?}");
    }
}
