//! A counter's entries as the strings that are stored.
#![allow(clippy::unwrap_used, missing_docs)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use quorate_crds::{CounterKey, CounterWriter};
use serde::{Serialize, de::DeserializeOwned};

fn at() -> Time {
    Time("2026-11-29T05:30:00Z".parse().unwrap())
}

fn writer() -> CounterWriter {
    CounterWriter {
        sequence: 12,
        before: i64::MIN,
        min: Some(-3),
        max: None,
        lamport: 40,
        awaited: true,
        at: at(),
        by: "a name, with spaces".to_owned(),
    }
}

fn key() -> CounterKey {
    CounterKey { before: 3, min: None, max: Some(i64::MAX), at: at(), operation: "set 3 to -4".to_owned() }
}

fn back<T: Serialize + DeserializeOwned>(entry: &T) -> T {
    serde_json::from_value(serde_json::to_value(entry).unwrap()).unwrap()
}

#[test]
fn they_come_back_as_they_were() {
    let late = CounterWriter { awaited: false, max: Some(0), by: String::new(), ..writer() };
    assert_eq!((back(&writer()), back(&late), back(&key())), (writer(), late, key()));
    let text = "0000000000000000012 -9223372036854775808 -3 - 40 awaited 2026-11-29T05:30:00Z a name, with spaces";
    assert_eq!(String::from(writer()), text);
    assert_eq!(String::from(key()), "3 - 9223372036854775807 2026-11-29T05:30:00Z set 3 to -4");
}

#[test]
fn the_api_server_compares_numbers_of_writes_as_texts() {
    let numbers = [0, 1, 9, 10, 99, i64::MAX - 1, i64::MAX];
    let texts = numbers.map(|sequence| String::from(CounterWriter { sequence, ..writer() }));
    assert!(texts.iter().all(|text| text.as_bytes()[19] == b' ') && texts.is_sorted_by(|a, b| a[..19] < b[..19]));
}

#[test]
fn a_text_that_is_no_entry_is_told_with_what_it_should_be() {
    for text in ["", "12", "0000000000000000012 1 - - 40 often 2026-11-29T05:30:00Z x", "0 0 0 0 0 late now x"] {
        let told = CounterWriter::try_from(text.to_owned()).unwrap_err().to_string();
        assert!(told.contains("SEQUENCE BEFORE MIN MAX LAMPORT"), "{told}");
    }
    let told = CounterKey::try_from("5 add 3".to_owned()).unwrap_err().to_string();
    assert!(told.contains("BEFORE MIN MAX TIME OPERATION"), "{told}");
}
