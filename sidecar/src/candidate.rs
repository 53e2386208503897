//! Whether a Secret is the candidate that the head speaks of.

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use quorate_crds::{Proposal, head::Head, names};

/// The verified content of exactly this proposal.
///
/// # Errors
/// Why it is not: then it counts for nothing, neither for the proposal nor against it.
pub fn verified(secret: &Secret, proposal: &Proposal) -> Result<Head, String> {
    if secret.type_.as_deref() != Some(names::CANDIDATE_TYPE) {
        return Err(format!("it is not of type {}", names::CANDIDATE_TYPE));
    }
    if secret.uid().as_deref() != Some(&proposal.uid) {
        return Err(format!("it is not the one that the head speaks of: its uid is not {}", proposal.uid));
    }
    let head = Head::from_secret(secret).map_err(|error| error.to_string())?;
    if (head.revision, &head.hash) != (proposal.revision, &proposal.hash) {
        return Err(format!(
            "it is revision {} with {}, but the head speaks of revision {} with {}",
            head.revision, head.hash, proposal.revision, proposal.hash
        ));
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use quorate_crds::{
        DistributedConfig,
        head::{Bundle, BundleFile},
    };
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_very_candidate_counts() {
        let config: DistributedConfig = serde_json::from_value(json!({
            "apiVersion": "quorate.io/v1alpha1", "kind": "DistributedConfig",
            "metadata": {"name": "web", "namespace": "shop", "uid": "u"}, "spec": {"layers": [], "files": []}
        }))
        .unwrap();
        let file = BundleFile { mode: 0o444, secret: false, bytes: b"x".to_vec() };
        let bundle = Bundle { files: [("f".to_owned(), file)].into(), provenance: Vec::new() };
        let head = Head::next(None, 5, bundle, Timestamp::UNIX_EPOCH);
        let proposal = Proposal { uid: "c".into(), revision: 5, hash: head.hash.clone() };
        let mut secret = head.to_candidate_secret(&config, "");
        secret.metadata.uid = Some("c".into());
        assert!(verified(&secret, &proposal).is_ok());

        let no = |secret: &Secret, proposal: &Proposal| verified(secret, proposal).unwrap_err();
        assert!(no(&secret, &Proposal { uid: "d".into(), ..proposal.clone() }).contains("uid"));
        assert!(no(&secret, &Proposal { revision: 6, ..proposal.clone() }).contains("speaks of revision 6"));
        assert!(no(&secret, &Proposal { hash: "other".into(), ..proposal.clone() }).contains("other"));
        let of_another_type = Secret { type_: Some(names::HEAD_TYPE.into()), ..secret.clone() };
        assert!(no(&of_another_type, &proposal).contains("type"));
        let mut torn = secret.clone();
        torn.data.as_mut().unwrap().get_mut("f").unwrap().0 = b"y".to_vec();
        assert!(no(&torn, &proposal).contains("bytes"));
    }
}
