//! The names of items: the queue's, a '.', and what the item was sent under, as it is if an object can have that name.

use quorate_crds::head::hex;
use sha2::{Digest, Sha256};

use super::limits::{Invalid, is_label};

/// The longest name that an object can have.
const LONGEST_OBJECT: usize = 253;
/// The longest name that an item can be sent under, in bytes.
const LONGEST_NAME: usize = 255;
/// Before a hash.
const HASHED: &str = "sha256-";

/// The object of an item that is sent under this name.
pub(super) fn item_name(queue: &str, name: &str) -> Result<String, Invalid> {
    if !(1..=LONGEST_NAME).contains(&name.len()) {
        return Err(Invalid::Name { bytes: name.len() });
    }
    // What looks like a hash is hashed: no name is ever taken for another's hash.
    let plain = name.split('.').all(is_label) && !name.starts_with(HASHED);
    let object = format!("{queue}.{name}");
    if plain && object.len() <= LONGEST_OBJECT {
        return Ok(object);
    }
    Ok(format!("{queue}.{HASHED}{}", &hex(&Sha256::digest(name))[..40]))
}

/// Whether this can be an item of this queue.
pub(super) fn item_of(queue: &str, item: &str) -> Result<(), Invalid> {
    let of = item.strip_prefix(queue).and_then(|rest| rest.strip_prefix('.'));
    let good = item.len() <= LONGEST_OBJECT && of.is_some_and(|own| own.split('.').all(is_label));
    if good { Ok(()) } else { Err(Invalid::Item { item: item.to_owned(), queue: queue.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_one_object_and_no_two_names_are_the_same_one() {
        assert_eq!(item_name("mails", "order-7.eu").unwrap(), "mails.order-7.eu");
        let long = "x".repeat(255);
        let names = ["a", "A", "a b", "ä", "a_b", "-", "a..b", "sha256-", &long, &long[1..], "/../etc", "\0"];
        let mut objects: Vec<String> = names.iter().map(|name| item_name("mails", name).unwrap()).collect();
        let hash = objects[1].strip_prefix("mails.").unwrap().to_owned();
        objects.push(item_name("mails", &hash).unwrap());
        for object in &objects {
            assert_eq!(item_of("mails", object), Ok(()), "{object}");
            assert_eq!(crate::lock::object_name(object), Ok(()), "{object}");
        }
        let count = objects.len();
        objects.sort();
        objects.dedup();
        assert_eq!(objects.len(), count);
        assert!(item_name("mails", "").is_err() && item_name("mails", &"x".repeat(256)).is_err());
    }

    #[test]
    fn an_item_of_another_queue_is_told() {
        for item in ["mail.a", "mails", "mails.", "mailsx.a", "a.mails", "mails.A", "mails.a/b"] {
            let told = item_of("mails", item).unwrap_err().to_string();
            assert!(told.contains("is no item of queue mails"), "{told}");
        }
    }
}
