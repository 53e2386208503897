//! A name server for pods: every name has the same address.

use std::net::Ipv4Addr;

use anyhow::Result;
use tokio::{net::UdpSocket, task::JoinHandle};

const HEADER: usize = 12;
const TYPE_A: [u8; 2] = [0, 1];

/// Serves on port 53 of an address, in the background, until it is aborted.
///
/// # Errors
/// When that cannot be had.
pub async fn serve(address: Ipv4Addr) -> Result<JoinHandle<()>> {
    let socket = UdpSocket::bind((address, 53)).await?;
    Ok(tokio::spawn(async move {
        let mut question = [0; 512];
        while let Ok((size, from)) = socket.recv_from(&mut question).await {
            if let Some(answer) = answer(&question[..size], address) {
                // Who got no answer asks again.
                let _ = socket.send_to(&answer, from).await;
            }
        }
    }))
}

/// The answer to a message with one question: the address, or, when another type is asked for, nothing.
fn answer(message: &[u8], address: Ipv4Addr) -> Option<Vec<u8>> {
    // Of the name, each label's length comes first, and 0 ends it. Type and class follow.
    let mut end = HEADER;
    while *message.get(end)? != 0 {
        end += 1 + usize::from(message[end]);
    }
    let question = message.get(HEADER..end + 5)?;
    let is_address = question[question.len() - 4..][..2] == TYPE_A;
    let mut answer = message[..2].to_vec();
    // A response, recursion as wished for; one question, and one answer or none.
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_address), 0, 0, 0, 0]);
    answer.extend(question);
    if is_address {
        // The question's name; type A of class IN; for no time at all; four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_the_address_and_nothing_else() {
        let question =
            |kind: u8| [&[7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"\x01a\x04test\0", &[0, kind, 0, 1]].concat();
        let address = Ipv4Addr::new(198, 18, 1, 1);
        let a = answer(&question(1), address).unwrap();
        assert_eq!((&a[..8], &a[a.len() - 4..]), (&[7, 7, 0x81, 0x80, 0, 1, 0, 1][..], &[198, 18, 1, 1][..]));
        let aaaa = answer(&question(28), address).unwrap();
        assert_eq!((aaaa[7], aaaa.len()), (0, question(28).len()));
        assert_eq!(answer(&question(1)[..15], address), None);
    }
}
