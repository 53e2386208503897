//! Configs that a set of clusters decides on: three real control planes, each with an operator that has the rights the chart
//! gives it, and with the other members' ways to it that docs/quorum.md tells to make.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::{collections::BTreeMap, fs, process::Command};

use futures::future::{join_all, try_join_all};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, ResourceExt, api::ListParams};
use quorate_coordination::quorum::Chosen;
use quorate_crds::{Agreed, AgreedEntry, names};
use quorate_tests::{
    members::{self, Member, NAMES, cluster_set, flattened, secret},
    programs,
    scene::condition,
    wait::wait_for,
};
use serde_json::{Value, json};

const VALUE: &str = "do-not-tell-this";

/// What is seen and done at a member.
trait Web {
    fn configure(&self, value: &str);
    fn file(&self) -> String;
    async fn shows(&self, value: &str);
    fn agreed(&self) -> Value;
    async fn log(&self) -> BTreeMap<i64, AgreedEntry>;
}

impl Web for Member {
    /// A change of the layers here.
    fn configure(&self, value: &str) {
        let layers = json!([
            {"name": "values", "inline": {"value": value}},
            {"name": "secret", "at": "/secret", "secretRef": {"name": "secret"}}
        ]);
        let spec = json!({"agreement": {"clusterSet": "world"}, "layers": layers, "files": [{"path": "a.json"}]});
        self.apply(&json!({
            "apiVersion": "quorate.io/v1alpha1", "kind": "DistributedConfig", "metadata": {"name": "web"}, "spec": spec
        }))
        .unwrap();
    }

    /// What pods read.
    fn file(&self) -> String {
        let head = serde_json::from_value::<Secret>(self.get("secret", "web.quorate")).unwrap_or_default();
        let bytes = head.data.as_ref().and_then(|data| data.get("a.json")).map(|bytes| bytes.0.clone());
        let value: Value = serde_json::from_slice(&bytes.unwrap_or_default()).unwrap_or_default();
        value["value"].as_str().unwrap_or_default().to_owned()
    }

    async fn shows(&self, value: &str) {
        wait_for(&format!("the files to say {value:?}"), || async {
            let found = self.file();
            if found == value { Ok(()) } else { Err(format!("{found:?}: {}", self.get("dcfg", "web")["status"])) }
        })
        .await
        .unwrap();
    }

    fn agreed(&self) -> Value {
        self.get("dcfg", "web")["status"]["agreement"].clone()
    }

    /// The log, as this member has it.
    async fn log(&self) -> BTreeMap<i64, AgreedEntry> {
        let secrets: Api<Secret> = Api::default_namespaced(self.cluster.client().await.unwrap());
        let labels = format!("{}={}", names::LABEL_KIND, names::KIND_AGREED);
        let entries = secrets.list(&ListParams::default().labels(&labels)).await.unwrap().items;
        let entry = |secret: Secret| {
            assert_eq!(secret.immutable, Some(true));
            let ByteString(bytes) = secret.data.unwrap().remove(names::AGREED_KEY).unwrap();
            serde_json::from_slice::<AgreedEntry>(&bytes).unwrap()
        };
        entries.into_iter().map(entry).map(|entry| (entry.revision, entry)).collect()
    }
}

/// Three members that know each other.
async fn world() -> Vec<Member> {
    let members = try_join_all(NAMES.map(Member::with_the_charts_rights)).await.unwrap();
    members::introduce(&members).unwrap();
    for member in &members {
        member.apply(&secret("secret", "password", VALUE)).unwrap();
    }
    members
}

async fn all_show(members: &[Member], value: &str) {
    join_all(members.iter().map(|member| member.shows(value))).await;
}

/// Waits until a condition of the set has this reason; its message.
async fn reason(member: &Member, set: &str, type_: &str, reason: &str) -> String {
    wait_for(&format!("{type_} of {set} to be {reason}"), || async {
        let found = condition(&member.get("cset", set), type_);
        if found["reason"] == reason {
            Ok(found["message"].as_str().unwrap().to_owned())
        } else {
            Err(found.to_string())
        }
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn any_majority_decides_and_what_is_decided_is_delivered_everywhere_in_one_order() {
    let mut members = world().await;
    // Regions whose layers differ: each says its word once, and they do not overrule each other for ever.
    for (name, member) in NAMES.iter().zip(&members) {
        member.configure(&format!("{name}-1"));
        member.shows(&format!("{name}-1")).await;
    }
    all_show(&members, "asia-1").await;
    for member in &members {
        assert_eq!((member.agreed()["revision"].clone(), member.agreed()["origin"].clone()), (json!(3), json!("asia")));
        let ready = condition(&member.get("dcfg", "web"), "Ready");
        assert_eq!(ready["status"], "True", "{ready}");
    }
    members[0].configure("eu-2");
    all_show(&members, "eu-2").await;

    // The others are brought to the same: that is no decision, and no other entry.
    members[1].configure("eu-2");
    members[2].configure("eu-2");
    wait_for("all to have said the same", || async {
        let acceptor = members[0].get("acceptor", "config.web");
        let value = acceptor["spec"]["accepted"]["value"].as_str().unwrap_or_default();
        let chosen: Chosen<Agreed> = serde_json::from_str(value).map_err(|error| error.to_string())?;
        let agreed = chosen.value.unwrap_or_default();
        let same = NAMES.iter().all(|name| agreed.inputs.get(*name) == Some(&agreed.entry.hash));
        if same { Ok(()) } else { Err(value.to_owned()) }
    })
    .await
    .unwrap();

    // Two at once: both are decided on, in one order.
    members[0].configure("eu-3");
    members[1].configure("us-3");
    let last = wait_for("both to be decided on", || async {
        let logs = join_all(members.iter().map(Member::log)).await;
        let complete = logs.iter().all(|log| log.len() == 6 && log == &logs[0]);
        if complete { Ok(logs[0].clone()) } else { Err(format!("{logs:?}")) }
    })
    .await
    .unwrap();
    let origins: Vec<&str> = last.values().map(|entry| entry.origin.as_str()).collect();
    assert!(
        origins[..4] == ["eu", "us", "asia", "eu"] && (origins[4..] == ["eu", "us"] || origins[4..] == ["us", "eu"])
    );
    let entries: Vec<&AgreedEntry> = last.values().collect();
    for pair in entries.windows(2) {
        assert_eq!(pair[1].previous, pair[0].hash);
        assert!(pair[1].after > pair[0].after && pair[1].lamport > pair[0].lamport);
    }
    all_show(&members, &format!("{}-3", origins[5])).await;

    // No secret value is in what the clusters tell each other in the open.
    for member in &members {
        let shown = member.cluster.kubectl(&["get", "acceptors,dcfg,cset,events", "-o", "json"]).unwrap();
        assert!(shown.contains("config.web") && !shown.contains(VALUE));
    }

    // Deleted everywhere, with all of its content, and made again: what was decided is, and its content is there again.
    for member in &members {
        member.cluster.kubectl(&["delete", "dcfg", "web"]).unwrap();
        // Nothing collects garbage here.
        let recovery = ["--as=me", "--as-group=system:masters", "--as-group=quorate:recovery"];
        let owned = ["delete", "secrets", "-l", "quorate.io/config=web"];
        member.cluster.kubectl(&[&owned[..], &recovery].concat()).unwrap();
    }
    for (member, value) in members.iter().zip(["eu-3", "us-3", "eu-2"]) {
        member.configure(value);
    }
    all_show(&members, &format!("{}-3", origins[5])).await;
    assert_eq!(members[2].agreed()["revision"], 6);

    // One is lost: the others go on. It comes back, and takes over what they have, and not the other way round.
    members[2].cluster.kill_api_server(0);
    members[0].configure("eu-4");
    all_show(&members[..2], "eu-4").await;
    let degraded = reason(&members[0], "world", "Degraded", "MembersNotReady").await;
    assert!(degraded.starts_with("asia: "), "{degraded}");
    members[2].cluster.restart_api_server(0).await.unwrap();
    all_show(&members, "eu-4").await;
    wait_for("its log to be that of the others", || async {
        let (log, there) = (members[0].log().await, members[2].log().await);
        if log == there { Ok(()) } else { Err(format!("{there:?}")) }
    })
    .await
    .unwrap();
    assert_eq!(members[0].log().await.last_key_value().unwrap().1.origin, "eu");

    // Two are lost: nothing is decided, pods keep what they have, and it is told. It goes on by itself.
    members[1].cluster.kill_api_server(0);
    members[2].cluster.kill_api_server(0);
    members[0].configure("eu-5");
    let ready = wait_for("the loss to be told", || async {
        let ready = condition(&members[0].get("dcfg", "web"), "Ready");
        if ready["reason"] == "QuorumLost" { Ok(ready) } else { Err(ready.to_string()) }
    });
    let told = ready.await.unwrap()["message"].as_str().unwrap().to_owned();
    assert!(told.contains("1 of 3 members") && told.contains("us: ") && told.contains("asia: "), "{told}");
    assert_eq!(members[0].file(), "eu-4");
    let lost = reason(&members[0], "world", "QuorumAvailable", "QuorumLost").await;
    assert!(lost.contains("1 of 3 members are ready, and 2 are needed"), "{lost}");
    members[1].cluster.restart_api_server(0).await.unwrap();
    all_show(&members[..2], "eu-5").await;
    reason(&members[0], "world", "QuorumAvailable", "MajorityReady").await;
}

/// What the plugin says, run at this member.
fn plugin(member: &Member, words: &[&str]) -> Result<String, String> {
    let mut command = Command::new(programs::path_of("kubectl-quorate").unwrap());
    let output = command.env("KUBECONFIG", member.cluster.kubeconfig(0)).args(words).output().unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(said(&output.stdout)) } else { Err(said(&output.stderr)) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_lost_for_good_is_replaced_while_configs_change() {
    let mut members = world().await;
    for member in &members {
        member.configure("1");
    }
    all_show(&members, "1").await;

    // Given up: the two that are left decide.
    members[2].cluster.kill_api_server(0);
    for member in &members[..2] {
        members::name_members(member, &["eu", "us"]).unwrap();
    }
    let list = plugin(&members[0], &["members", "list", "world"]).unwrap();
    assert!(list.contains("config.web") && list.contains("asia,eu,us (not as in the set)"), "{list}");
    let told = plugin(&members[0], &["members", "change", "world"]).unwrap();
    let expected =
        ["config-registry.world", "config.web"].map(|name| format!("register {name}: eu, us decide, as epoch 2"));
    assert_eq!(told.lines().collect::<Vec<_>>(), expected);
    members[0].configure("2");
    all_show(&members[..2], "2").await;

    // It comes back without what it had promised, and joins. It knows all three still, so it takes over what the others decided before.
    members[2].cluster.restart_api_server(0).await.unwrap();
    members[2].shows("2").await;
    members[2].cluster.kubectl(&["delete", "acceptor", "config.web"]).unwrap();
    for member in &members[..2] {
        members::name_members(member, &NAMES).unwrap();
    }
    let told = plugin(&members[1], &["members", "change", "world"]).unwrap();
    assert!(told.contains("register config.web: eu, us, asia decide, as epoch 3"), "{told}");

    // It counts: with it, one of the others may be lost.
    members[0].cluster.kill_api_server(0);
    members[1].configure("3");
    all_show(&members[1..], "3").await;
    wait_for("it to have the whole log", || async {
        let (log, there) = (members[1].log().await, members[2].log().await);
        if log == there && log.len() == 3 { Ok(()) } else { Err(format!("{log:?} and {there:?}")) }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_counter_and_a_lock_are_the_same_in_all_clusters_whichever_is_lost() {
    let mut members = world().await;
    for member in &members {
        member
            .apply(&json!({
                "apiVersion": "quorate.io/v1alpha1", "kind": "DistributedCounter", "metadata": {"name": "orders"},
                "spec": {"initial": 40, "max": 50, "clusterSet": "world"}
            }))
            .unwrap();
    }
    let add = ["counter", "add", "orders"];
    let forget = ["members", "forget", "world", "counter.orders"];
    assert_eq!(plugin(&members[0], &forget).unwrap(), "register counter.orders was not known");
    let counted: Vec<String> = members.iter().map(|member| plugin(member, &add).unwrap()).collect();
    assert_eq!(counted, ["41", "42", "43"]);
    let refused = plugin(&members[0], &forget).unwrap_err();
    assert!(refused.contains("us has one: delete it there (kubectl delete acceptor counter.orders)"), "{refused}");
    // Gone everywhere, it is not taken for one that never was.
    for member in &members {
        member.cluster.kubectl(&["delete", "acceptor", "counter.orders"]).unwrap();
    }
    let refused = plugin(&members[1], &add).unwrap_err();
    assert!(refused.contains("run kubectl quorate members forget world counter.orders"), "{refused}");
    assert_eq!(
        plugin(&members[1], &forget).unwrap(),
        "register counter.orders is forgotten: its next user makes it anew"
    );
    assert_eq!([&members[0], &members[2], &members[1]].map(|member| plugin(member, &add).unwrap()), ["41", "42", "43"]);
    let lock = |member: &Member| {
        let words = ["lock", "run", "nightly", "--cluster-set", "world", "--ttl", "5s"];
        let command = ["--", "sh", "-c", "echo $QUORATE_TOKEN"];
        plugin(member, &[&words[..], &command].concat()).map(|token| token.parse::<u64>().unwrap())
    };
    let first = lock(&members[0]).unwrap();
    members[0].cluster.kill_api_server(0);
    assert_eq!(plugin(&members[1], &add).unwrap(), "44");
    assert!(lock(&members[2]).unwrap() > first);
    // While it is held there, it is not granted here.
    let inner = format!(
        "KUBECONFIG={} {} lock run nightly --cluster-set world --wait 0s -- true",
        members[2].cluster.kubeconfig(0).display(),
        programs::path_of("kubectl-quorate").unwrap().display()
    );
    let words = ["lock", "run", "nightly", "--cluster-set", "world", "--", "sh", "-c", &inner];
    let refused = plugin(&members[1], &words).unwrap_err();
    assert!(refused.contains("nightly") && !refused.contains("was lost"), "{refused}");
    members[0].cluster.restart_api_server(0).await.unwrap();
    let refused = plugin(&members[0], &["counter", "add", "orders", "7"]).unwrap_err();
    assert!(refused.contains("50"), "{refused}");
    // Whoever takes its object for the counter is told.
    members[1].cluster.kill_api_server(0);
    members[2].cluster.kill_api_server(0);
    let lost = plugin(&members[0], &add).unwrap_err();
    assert!(lost.contains("1 of 3") && lost.contains("us: "), "{lost}");
    let change = ["patch", "dctr", "orders", "--type=merge", "-p", r#"{"spec": {"clusterSet": null}}"#];
    let refused = members[0].cluster.kubectl(&change).unwrap_err().to_string();
    assert!(refused.contains("spec.clusterSet never changes"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_set_is_told_and_nobody_else_decides() {
    let member = Member::with_the_charts_rights("eu").await.unwrap();
    let admin = flattened(&member.cluster, &member.cluster.kubeconfig(0)).unwrap();
    let other = |name: &str, secret: &str| json!({"name": name, "kubeconfigSecretRef": {"name": secret}});
    let own = json!({"name": "eu", "self": true});

    // The same cluster by another way.
    member.apply(&secret("twin", "kubeconfig", &admin)).unwrap();
    member.apply(&cluster_set("twins", &json!([own, other("us", "twin")]))).unwrap();
    let told = reason(&member, "twins", "Stalled", "SameCluster").await;
    assert!(told.contains("members eu and us are the same cluster"), "{told}");
    assert_eq!(condition(&member.get("cset", "twins"), "QuorumAvailable")["status"], "False");

    // Kubeconfigs that cannot be used, in some way; never with a word of what is in them.
    let exec = "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{name: c, cluster: {server: 'https://x'}}]\n\
        users: [{name: u, user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: touch, args: [/tmp/owned]}}}]\n\
        contexts: [{name: c, context: {cluster: c, user: u}}]\n";
    let stranger = flattened(&member.cluster, &member.cluster.kubeconfig_of("default:nobody").unwrap()).unwrap();
    let nowhere = exec.replace("https://x", "https://127.0.0.1:1").replace(
        "exec: {apiVersion: client.authentication.k8s.io/v1, command: touch, args: [/tmp/owned]}",
        &format!("token: {VALUE}"),
    );
    let wrong = ["exec", "stranger", "nowhere", "odd", "absent"];
    for (name, text) in wrong.iter().zip([exec, &stranger, &nowhere, &format!("{VALUE}: [")]) {
        member.apply(&secret(name, "kubeconfig", text)).unwrap();
    }
    let members: Vec<Value> = wrong.iter().map(|name| other(name, name)).chain([own]).collect();
    member.apply(&cluster_set("wrong", &json!(members))).unwrap();
    let told = reason(&member, "wrong", "Degraded", "MembersNotReady").await;
    for why in [
        "exec: ",
        "a program to get credentials from",
        "stranger: the rights are too small",
        "ClusterRole quorate-members",
        "nowhere: ",
        "odd: ",
        "is no kubeconfig",
        "absent: ",
        "does not exist: kubectl create secret generic absent",
    ] {
        assert!(told.contains(why), "{why:?} is not in {told}");
    }
    assert!(!told.contains(VALUE), "{told}");
    let table = member.cluster.kubectl(&["get", "cset", "wrong"]).unwrap();
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NAME", "MEMBERS", "QUORUM", "DEGRADED", "AGE"]);
    assert_eq!(rows[1][..4], ["wrong", "1/6", "False", "True"]);

    // Specs that make no sense.
    for (members, why) in [
        (json!([]), "members"),
        (json!([{"name": "eu", "self": true}, {"name": "us", "self": true}]), "one member at most"),
        (json!([{"name": "eu"}]), "either self: true or has a kubeconfigSecretRef"),
        (json!([{"name": "E.U", "self": true}]), "name"),
    ] {
        let refused = member.apply(&cluster_set("bad", &members)).unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }

    // Who may not get the Secret cannot have the operator use it; and who uses registers decides on no config.
    let cluster = &member.cluster;
    cluster.kubectl(&["create", "role", "sets", "--verb=create", "--resource=clustersets.quorate.io"]).unwrap();
    cluster.kubectl(&["create", "rolebinding", "sets", "--role=sets", "--serviceaccount=default:dev"]).unwrap();
    let registers =
        ["create", "rolebinding", "registers", "--clusterrole=quorate-registers", "--serviceaccount=default:dev"];
    cluster.kubectl(&registers).unwrap();
    let make = |object: &Value| {
        let file = cluster.folder().join("made.json");
        fs::write(&file, object.to_string()).unwrap();
        cluster.kubectl(&["create", "--as=system:serviceaccount:default:dev", "-f", &file.display().to_string()])
    };
    let refused = make(&cluster_set("mine", &json!([other("us", "twin")]))).unwrap_err().to_string();
    assert!(refused.contains("this set uses the kubeconfig in Secret twin, which you may not get"), "{refused}");
    make(&cluster_set("mine", &json!([{"name": "eu", "self": true}]))).unwrap();
    let acceptor = |name: &str| {
        json!({
            "apiVersion": "quorate.io/v1alpha1", "kind": "Acceptor", "metadata": {"name": name},
            "spec": {"promised": {"round": 1, "proposer": "x"}}
        })
    };
    let refused = make(&acceptor("config.web")).unwrap_err().to_string();
    assert!(refused.contains("written by the operators of the members of its ClusterSet alone"), "{refused}");
    let refused = make(&acceptor("config-registry.world")).unwrap_err().to_string();
    assert!(refused.contains("written by the operators of the members of its ClusterSet alone"), "{refused}");
    make(&acceptor("registry.world")).unwrap();
    make(&acceptor("lock.nightly")).unwrap();

    // A config without its set, and one whose set does not know where it is.
    let config = |name: &str, set: &str| {
        json!({
            "apiVersion": "quorate.io/v1alpha1", "kind": "DistributedConfig", "metadata": {"name": name},
            "spec": {"agreement": {"clusterSet": set}, "layers": [{"name": "a", "inline": {}}], "files": [{"path": "a.yaml"}]}
        })
    };
    for (name, set, why) in [
        ("lonely", "nothing", "ClusterSet default/nothing does not exist"),
        ("doubled", "twins", "ClusterSet default/twins is not used: members eu and us are the same cluster"),
    ] {
        member.apply(&config(name, set)).unwrap();
        let told = wait_for("it to be told", || async {
            let ready = condition(&member.get("dcfg", name), "Ready");
            if ready["reason"] == "AgreementFailed" { Ok(ready) } else { Err(ready.to_string()) }
        });
        let told = told.await.unwrap()["message"].as_str().unwrap().to_owned();
        assert!(told.contains(why), "{told}");
    }
    let secrets: Api<Secret> = Api::default_namespaced(member.cluster.client().await.unwrap());
    assert!(
        secrets.list(&ListParams::default()).await.unwrap().items.iter().all(|s| !s.name_any().contains(".quorate"))
    );
}
