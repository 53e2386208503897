//! Programs that no one here wrote see each change, whole, in pods with the injected sidecar on a real node; and the
//! injected hooks reach what they should. One cluster for all.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    fs,
    ops::RangeInclusive,
    path::PathBuf,
    process::{Command, Stdio},
};

use quorate_tests::{
    Cluster,
    cluster::root,
    images::Image,
    installation::{self, pod},
    node::{self, BUSYBOX},
    programs::http_get,
    scene::condition,
    wait::wait_for,
};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

/// How often a file has its value: one that is cut short, or made of two, is noticed.
const COPIES: usize = 1000;
/// Each of these is waited for.
const ONE_BY_ONE: RangeInclusive<usize> = 2..=6;
/// Of these, which come as fast as they can, the last is waited for.
const AT_ONCE: RangeInclusive<usize> = 7..=12;

/// The cluster, which knows the watchers' images; none where there can be no node, or no such images.
async fn cluster() -> Option<MutexGuard<'static, Cluster>> {
    static SHARED: OnceCell<Mutex<Cluster>> = OnceCell::const_new();
    if !node::available() {
        return None;
    }
    let files = files_of_images().map_err(|why| node::skip(&why)).ok()?;
    let shared = SHARED.get_or_init(|| async { Mutex::new(with_images(files).await) }).await;
    Some(shared.lock().await)
}

/// The folder with a folder for each image; or why they cannot be made here.
fn files_of_images() -> Result<PathBuf, String> {
    let script = root().join("tests/watchers/build.sh");
    let run = Command::new(script).stderr(Stdio::inherit()).output().unwrap();
    let told = String::from_utf8_lossy(&run.stdout).trim().to_owned();
    assert!(run.status.success() || !told.is_empty(), "tests/watchers/build.sh failed; the reason is above");
    if run.status.success() { Ok(PathBuf::from(told)) } else { Err(told) }
}

async fn with_images(files: PathBuf) -> Cluster {
    let cluster = installation::cluster().await.unwrap();
    for name in ["viper", "watchdog", "nginx"] {
        let mut image = Image::default();
        image.tree(&files.join(name)).unwrap();
        let archive = image.write(&image_of(name), &cluster.folder().join(format!("{name}.tar"))).unwrap();
        cluster.node.as_ref().unwrap().import(&archive.path).unwrap();
        fs::remove_file(archive.path).unwrap();
    }
    cluster
}

fn image_of(name: &str) -> String {
    format!("localhost/{name}:1")
}

/// A namespace with config web, which has the value 1 at first.
struct Shop<'a> {
    cluster: &'a Cluster,
    namespace: &'a str,
}

impl<'a> Shop<'a> {
    fn new(cluster: &'a Cluster, namespace: &'a str) -> Self {
        cluster.kubectl(&["create", "namespace", namespace]).unwrap();
        let shop = Self { cluster, namespace };
        shop.kubectl(&["create", "serviceaccount", "web"]).unwrap();
        shop.set("1");
        shop
    }

    fn kubectl(&self, words: &[&str]) -> anyhow::Result<String> {
        self.cluster.kubectl(&[&["-n", self.namespace], words].concat())
    }

    fn get(&self, words: &[&str]) -> Result<Value, String> {
        let text = self.kubectl(&[&["get", "-o", "json"], words].concat()).map_err(|error| error.to_string())?;
        serde_json::from_str(&text).map_err(|error| error.to_string())
    }

    fn apply(&self, manifest: &Value) {
        let file = self.cluster.folder().join("applied");
        fs::write(&file, manifest.to_string()).unwrap();
        self.kubectl(&["apply", "-f", &file.display().to_string()]).unwrap();
    }

    /// Gives the config another value.
    fn set(&self, value: &str) {
        self.apply(&json!({
            "apiVersion": "quorate.io/v1alpha1", "kind": "DistributedConfig", "metadata": {"name": "web"},
            "spec": {
                "layers": [{"name": "a", "inline": {"value": value, "copies": vec![value; COPIES]}}],
                "files": [
                    {"path": "app.json"}, {"path": "below/app.json"},
                    {"path": "nginx.conf", "template": include_str!("../watchers/nginx/nginx.conf")},
                ],
                "access": {"serviceAccounts": ["web"]},
                "selector": {"matchLabels": {"app": "web"}},
            },
        }));
    }

    /// Starts a pod with the sidecar and waits until it is ready; what the API server has of it then. Its containers are
    /// the application's, and run as the sidecar's user.
    async fn start(&self, name: &str, annotations: &[(&str, &str)], change: impl FnOnce(&mut Value)) -> Value {
        let mut pod = pod(&json!({"name": name, "labels": {"app": "web", "quorate.io/inject": "true"}}));
        pod["metadata"]["annotations"] = json!({"quorate.io/config": "web"});
        for (annotation, value) in annotations {
            pod["metadata"]["annotations"][format!("quorate.io/{annotation}")] = json!(value);
        }
        pod["spec"]["serviceAccountName"] = json!("web");
        pod["spec"]["securityContext"] = json!({"runAsUser": 65532, "runAsNonRoot": true});
        change(&mut pod["spec"]);
        self.apply(&pod);
        wait_for(&format!("pod {name} to be ready"), || async {
            let pod = self.get(&["pod", name])?;
            if condition(&pod, "Ready")["status"] == "True" { Ok(pod) } else { Err(pod["status"].to_string()) }
        })
        .await
        .unwrap()
    }

    /// The lines that a container wrote.
    fn log(&self, pod: &str, container: &str) -> Vec<String> {
        let log = self.kubectl(&["logs", pod, "-c", container]).unwrap();
        log.lines().map(str::to_owned).collect()
    }

    /// Waits until a container wrote a line.
    async fn says(&self, pod: &str, container: &str, line: &str) {
        wait_for(&format!("{pod} to say {line:?}"), || async {
            let log = self.log(pod, container);
            if log.iter().any(|said| said == line) { Ok(()) } else { Err(log.join("\n")) }
        })
        .await
        .unwrap();
    }

    /// What a pod has as a file on disk.
    fn on_disk(&self, pod: &Value, path: &str) -> String {
        let uid = pod["metadata"]["uid"].as_str().unwrap();
        let volume = self.cluster.node.as_ref().unwrap().volume(uid, "empty-dir", "quorate");
        fs::read_to_string(volume.join("web").join(path)).unwrap()
    }

    /// Leaves nothing running for the next test.
    fn close(self) {
        self.cluster.kubectl(&["delete", "namespace", self.namespace, "--wait=false"]).unwrap();
    }
}

/// What watches a file of the config, and a file in a folder of it.
struct Watcher<'a> {
    /// Its image.
    name: &'a str,
    file: &'a [&'a str],
    in_folder: &'a [&'a str],
    /// Whether it notices changes in folders.
    sees_folders: bool,
}

impl Watcher<'_> {
    /// It says each change that is waited for, and the last of many; and it never saw anything but whole files.
    async fn sees_each_change(&self) {
        let Some(cluster) = cluster().await else { return };
        let shop = Shop::new(&cluster, self.name);
        let container =
            |name: &str, command: &[&str]| json!({"name": name, "image": image_of(self.name), "command": command});
        let containers = json!([container("file", self.file), container("in-folder", self.in_folder)]);
        shop.start(self.name, &[], |spec| spec["containers"] = containers).await;
        for container in ["file", "in-folder"] {
            shop.says(self.name, container, "watches").await;
        }
        for value in ONE_BY_ONE {
            shop.set(&value.to_string());
            shop.says(self.name, "file", &whole(value)).await;
        }
        for value in AT_ONCE {
            shop.set(&value.to_string());
        }
        let last = whole(*AT_ONCE.end());
        shop.says(self.name, "file", &last).await;
        if self.sees_folders {
            shop.says(self.name, "in-folder", &last).await;
        } else {
            // docs/watchers.md says so.
            assert!(!shop.log(self.name, "in-folder").contains(&last));
        }
        for container in ["file", "in-folder"] {
            let log = shop.log(self.name, container);
            assert!(is_all_whole_and_in_order(&log), "{log:?}");
        }
        shop.close();
    }
}

fn whole(value: usize) -> String {
    format!("saw {value} {COPIES}")
}

fn is_all_whole_and_in_order(log: &[String]) -> bool {
    let expected: Vec<String> = (1..=*AT_ONCE.end()).map(whole).collect();
    let seen = log.iter().filter(|line| *line != "watches");
    let places: Vec<Option<usize>> = seen.map(|line| expected.iter().position(|whole| whole == line)).collect();
    places.is_sorted() && places.iter().all(Option::is_some)
}

#[tokio::test(flavor = "multi_thread")]
async fn viper_sees_each_change() {
    let viper = Watcher {
        name: "viper",
        file: &["/viper", "/etc/quorate/web/app.json"],
        in_folder: &["/viper", "/etc/quorate/web/below/app.json"],
        // It watches the folder of the file, which is another one after each change.
        sees_folders: false,
    };
    viper.sees_each_change().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watchdog_sees_each_change() {
    let watchdog = Watcher {
        name: "watchdog",
        file: &["/usr/bin/python3", "/app/main.py", "/etc/quorate/web", "app.json"],
        in_folder: &["/usr/bin/python3", "/app/main.py", "/etc/quorate/web", "below/app.json"],
        sees_folders: true,
    };
    watchdog.sees_each_change().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_reloads_by_the_injected_signal_and_not_without() {
    let Some(cluster) = cluster().await else { return };
    let shop = Shop::new(&cluster, "nginx");
    let nginx = |user: u32| {
        move |spec: &mut Value| {
            spec["shareProcessNamespace"] = json!(true);
            spec["securityContext"]["runAsUser"] = json!(user);
            let command = ["/usr/sbin/nginx", "-e", "stderr", "-c", "/etc/quorate/web/nginx.conf"];
            spec["containers"][0]["command"] = json!(command);
            spec["containers"][0]["image"] = json!(image_of("nginx"));
            spec["containers"][0]["volumeMounts"] = json!([{"name": "tmp", "mountPath": "/tmp"}]);
            spec["volumes"] = json!([{"name": "tmp", "emptyDir": {"medium": "Memory"}}]);
        }
    };
    let by_signal = ("notify-signal", "HUP:nginx");
    let told = [
        shop.start("told", &[by_signal], nginx(65532)).await,
        shop.start("told-as-101", &[by_signal, ("user", "101")], nginx(101)).await,
    ];
    let untold = shop.start("untold", &[], nginx(65532)).await;
    serves(&untold, 1).await;
    for value in ONE_BY_ONE {
        shop.set(&value.to_string());
        for pod in &told {
            serves(pod, value).await;
        }
    }
    for value in AT_ONCE {
        shop.set(&value.to_string());
    }
    let last = *AT_ONCE.end();
    for pod in &told {
        serves(pod, last).await;
    }

    // The other has the same files, and goes on with what it read when it started.
    wait_for("the last change on disk", || async {
        let file = shop.on_disk(&untold, "nginx.conf");
        if file.contains(&format!("\"{last}\\n\"")) { Ok(()) } else { Err(file) }
    })
    .await
    .unwrap();
    serves(&untold, 1).await;
    for pod in ["told", "told-as-101"] {
        // No reload met with a file that nginx could not read, and none was a restart.
        assert_eq!(shop.get(&["pod", pod]).unwrap()["status"]["containerStatuses"][0]["restartCount"], 0);
        let log = shop.log(pod, "app").join("\n");
        assert!(log.contains("signal 1 (SIGHUP)") && !log.contains("[emerg]") && !log.contains("[alert]"), "{log}");
    }
    shop.close();
}

/// Waits until nginx in a pod serves a value; it always serves one.
async fn serves(pod: &Value, value: usize) {
    let address = format!("{}:8080", pod["status"]["podIP"].as_str().unwrap());
    wait_for(&format!("nginx to serve {value}"), || async {
        let (status, body) = http_get(&address, "/").await.map_err(|error| error.to_string())?;
        let served: usize = body.trim().parse().expect("a value");
        assert_eq!(status, 200);
        if served == value { Ok(()) } else { Err(body) }
    })
    .await
    .unwrap();
}

/// Two scripts and the shell for them, which an init container puts into a volume.
const TOOLS: &str = r#"
cp /bin/busybox /tools/busybox
cat >/tools/check <<'END'
#!/tools/busybox sh
! /tools/busybox grep -q bad "$QUORATE_STAGED/app.json"
END
cat >/tools/tell <<'END'
#!/tools/busybox sh
echo "$1 $QUORATE_CONFIG $QUORATE_REVISION" | /tools/busybox nc 127.0.0.1 9000
END
chmod +x /tools/check /tools/tell
"#;

#[tokio::test(flavor = "multi_thread")]
async fn programs_of_a_volume_check_and_tell() {
    let Some(cluster) = cluster().await else { return };
    let shop = Shop::new(&cluster, "tools");
    let annotations = [
        ("tools-volume", "tools"),
        ("order", "last"),
        ("check-exec", "/tools/check"),
        ("notify-exec", "/tools/tell changed:"),
    ];
    let pod = shop.start("tools", &annotations, |spec| {
        spec["initContainers"] = json!([{
            "name": "tools", "image": BUSYBOX, "command": ["sh", "-c", TOOLS],
            "volumeMounts": [{"name": "tools", "mountPath": "/tools"}],
        }]);
        spec["volumes"] = json!([{"name": "tools", "emptyDir": {"medium": "Memory"}}]);
        // It prints what it is sent. (`nc -l` alone ends the connection at once, as its own input has ended: then the other nc may end
        // before it has sent anything, and well.)
        spec["containers"][0]["command"] = json!(["nc", "-ll", "-p", "9000", "-e", "sh", "-c", "cat >&2"]);
    });
    let pod = pod.await;
    for value in 2..=3 {
        shop.set(&value.to_string());
        shop.says("tools", "app", &format!("changed: web {value}")).await;
    }
    shop.set("bad");
    wait_for("the refusal", || async {
        let config = shop.get(&["dcfg", "web"])?;
        if config["status"]["phase"] == "RolledBack" { Ok(()) } else { Err(config["status"].to_string()) }
    })
    .await
    .unwrap();
    assert!(shop.on_disk(&pod, "app.json").contains("\"3\""));
    let log = shop.log("tools", "app");
    assert!(log.iter().all(|line| ["changed: web 2", "changed: web 3"].contains(&line.as_str())), "{log:?}");
    shop.close();
}
