//! Handles that are used again, since each is a writer of its own and combines its callers: a bounded number of them, made
//! when first needed.

use std::sync::{Mutex, PoisonError};

/// The most handles of a kind; then those that were used least recently go.
const MOST: usize = 32;

/// See the module.
pub struct Handles<H>(Mutex<Vec<(String, H)>>);

impl<H> Default for Handles<H> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<H: Clone> Handles<H> {
    /// The handle of this name, made if there is none.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn get<E>(&self, name: &str, make: impl FnOnce() -> Result<H, E>) -> Result<H, E> {
        let mut handles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let handle = match handles.iter().position(|(known, _)| known == name) {
            Some(place) => handles.remove(place).1,
            None => make()?,
        };
        if handles.len() >= MOST {
            handles.remove(0);
        }
        handles.push((name.to_owned(), handle.clone()));
        Ok(handle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_least_recently_goes_first() {
        let (handles, mut made) = (Handles::default(), 0_usize);
        let mut get = |name: &str| {
            handles.get(name, || {
                made += 1;
                Ok::<_, ()>(made)
            })
        };
        assert_eq!((get("a"), get("b"), get("a")), (Ok(1), Ok(2), Ok(1)));
        for n in 0..MOST - 1 {
            get(&format!("c{n}")).unwrap();
        }
        assert_eq!(get("a"), Ok(1), "used after b");
        assert_eq!(get("b"), Ok(MOST + 2), "made again");
        assert_eq!(handles.get("x", || Err::<usize, _>("no")), Err("no"));
    }
}
