//! What the state machines of this module need of what threads share, as traits: the machines are generic over them, so
//! that a model checker can run every interleaving of the code that ships (L6, V2).

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use tokio_util::sync::CancellationToken;

/// An atomic byte.
pub(crate) trait AtomicByte {
    fn load(&self) -> u8;
    /// Whether `from` was replaced by `to`.
    fn replace(&self, from: u8, to: u8) -> bool;
}

/// An atomic count.
pub(crate) trait Count {
    fn now(&self) -> usize;
    fn up(&self);
    /// What it was before.
    fn down(&self) -> usize;
}

/// Something that is set once and stays set. Setting and looking are ordered by a lock, as in a [`CancellationToken`]:
/// of one thread that sets and then reads a count, and another that changes the count and then looks, one sees the other.
pub(crate) trait Latch {
    fn set(&self);
    fn is_set(&self) -> bool;
}

/// The traits for one library's atomics, with the same orderings for each.
macro_rules! for_atomics {
    ($byte:ty, $count:ty) => {
        impl AtomicByte for $byte {
            fn load(&self) -> u8 {
                self.load(Ordering::Acquire)
            }

            fn replace(&self, from: u8, to: u8) -> bool {
                self.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
            }
        }

        impl Count for $count {
            fn now(&self) -> usize {
                self.load(Ordering::Acquire)
            }

            fn up(&self) {
                self.fetch_add(1, Ordering::AcqRel);
            }

            fn down(&self) -> usize {
                self.fetch_sub(1, Ordering::AcqRel)
            }
        }
    };
}

for_atomics!(AtomicU8, AtomicUsize);
#[cfg(test)]
for_atomics!(loom::sync::atomic::AtomicU8, loom::sync::atomic::AtomicUsize);

impl Latch for CancellationToken {
    fn set(&self) {
        self.cancel();
    }

    fn is_set(&self) -> bool {
        self.is_cancelled()
    }
}
