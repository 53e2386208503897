//! A real node: containerd, kubelet and kube-proxy, in a machine within this one.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::{
    Api, Client,
    runtime::{conditions::Condition, wait::await_condition},
};
use serde_json::json;

use crate::{
    cluster::{root, tail},
    images::Image,
    machine::{self, Inside, Machine},
    programs::http_get,
    wait::{DEADLINE, wait_for},
};

/// The node's name.
pub const NAME: &str = "node-a";
/// Who it is for the API server.
pub const USER: &str = "system:node:node-a";
/// An image with a shell, for the tests' applications.
pub const BUSYBOX: &str = "localhost/busybox:1";
const PAUSE: &str = "localhost/pause:1";
const SOCKET: &str = "/run/containerd/containerd.sock";
/// Below it are the volumes of pods.
const KUBELET: &str = "/var/lib/kubelet";
const PROXY_HEALTH: u16 = 10256;

/// A node's programs. They end when dropped, or when this process ends in any way.
pub struct Node {
    machine: Arc<Machine>,
    /// The cluster's: logs, keys and configurations.
    folder: PathBuf,
    binaries: PathBuf,
    containerd: Option<Inside>,
    kubelet: Option<Inside>,
    proxy: Option<Inside>,
}

/// Whether this machine can have a node. If it cannot, says so for the test that asks: see [`skip`].
#[must_use]
pub fn available() -> bool {
    let checked = machine::check();
    if let Err(why) = &checked {
        skip(why);
    }
    checked.is_ok()
}

/// Says why the test that asks cannot run here, and notes it in `target/skipped`, whose lines `make test` counts.
pub fn skip(why: &str) {
    use std::io::Write;
    let thread = std::thread::current();
    let line = format!("{}: {why}", thread.name().unwrap_or_default());
    // Not through eprintln, which tests that pass do not show.
    let _ = writeln!(std::io::stderr(), "SKIPPED {line}");
    let notes = File::options().create(true).append(true).open(root().join("target/skipped"));
    let _ = notes.and_then(|mut notes| writeln!(notes, "{line}"));
}

impl Node {
    /// Starts one; `kubelet.kubeconfig` and `proxy.kubeconfig` are in the folder already.
    ///
    /// # Errors
    /// When something does not become ready.
    pub async fn start(machine: Arc<Machine>, folder: &Path, binaries: &Path, client: Client) -> Result<Self> {
        let (folder, binaries) = (folder.to_owned(), binaries.to_owned());
        let mut node = Self { machine, folder, binaries, containerd: None, kubelet: None, proxy: None };
        node.write_configurations()?;
        node.start_containerd().await?;
        for archive in node.test_images()? {
            node.import(&archive)?;
        }
        node.start_kubelet()?;
        let arguments = [format!("--config={}", node.file("proxy.yaml"))];
        node.proxy = Some(node.launch("kube-proxy", &arguments)?);
        node.ready(client).await?;
        Ok(node)
    }

    /// Its machine.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Makes an image known to it.
    ///
    /// # Errors
    /// When containerd refuses it.
    pub fn import(&self, archive: &Path) -> Result<()> {
        let file = File::open(archive).with_context(|| archive.display().to_string())?;
        self.ctr(&["images", "import", "-"], file.into()).map(drop)
    }

    /// A volume of a pod, as a path of ours. `kind` is kubelet's: `empty-dir`, `secret`.
    #[must_use]
    pub fn volume(&self, pod_uid: &str, kind: &str, name: &str) -> PathBuf {
        self.machine.path(&format!("{KUBELET}/pods/{pod_uid}/volumes/kubernetes.io~{kind}/{name}"))
    }

    /// What the kernel says of a container's first process (`/proc/PID/status`), by the id in its pod's status.
    ///
    /// # Errors
    /// When it does not run.
    pub fn process(&self, id: &str) -> Result<String> {
        let id = id.trim_start_matches("containerd://");
        let tasks = self.ctr(&["tasks", "list"], Stdio::null())?;
        let mut fields = tasks.lines().map(str::split_whitespace).find(|line| line.clone().next() == Some(id));
        let pid = fields.as_mut().and_then(|fields| fields.nth(1)).with_context(|| format!("{id} does not run"))?;
        Ok(fs::read_to_string(self.machine.path(&format!("/proc/{pid}/status")))?)
    }

    /// Kills a container, by the id in its pod's status (`containerd://…`).
    ///
    /// # Errors
    /// When there is none.
    pub fn kill_container(&self, id: &str) -> Result<()> {
        let id = id.trim_start_matches("containerd://");
        self.ctr(&["tasks", "kill", "--signal", "SIGKILL", id], Stdio::null()).map(drop)
    }

    /// Kills what holds a pod's containers together (its network, above all): kubelet must begin the pod anew.
    ///
    /// # Errors
    /// When there is none.
    pub fn kill_sandbox(&self, pod_uid: &str) -> Result<()> {
        let of_pod = format!(r#"labels."io.kubernetes.pod.uid"=={pod_uid},labels."io.cri-containerd.kind"==sandbox"#);
        let found = self.ctr(&["containers", "list", "--quiet", &of_pod], Stdio::null())?;
        let id = found.lines().next().with_context(|| format!("no sandbox of pod {pod_uid}"))?;
        self.kill_container(id)
    }

    /// Kills containerd and starts it again. Containers run on meanwhile.
    ///
    /// # Errors
    /// When it does not come back.
    pub async fn restart_containerd(&mut self) -> Result<()> {
        self.containerd = None;
        self.start_containerd().await
    }

    /// Kills kubelet; [`Node::start_kubelet`] brings it back.
    pub fn kill_kubelet(&mut self) {
        self.kubelet = None;
    }

    /// Starts kubelet.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_kubelet(&mut self) -> Result<()> {
        let arguments = [
            format!("--config={}", self.file("kubelet.yaml")),
            format!("--kubeconfig={}", self.file("kubelet.kubeconfig")),
            format!("--root-dir={KUBELET}"),
            format!("--hostname-override={NAME}"),
            format!("--node-ip={}", self.machine.address()),
        ];
        self.kubelet = Some(self.launch("kubelet", &arguments)?);
        Ok(())
    }

    async fn start_containerd(&mut self) -> Result<()> {
        let arguments = ["--config".to_owned(), self.file("containerd.toml")];
        let log = self.folder.join("containerd.log");
        self.containerd = Some(self.machine.launch(Path::new("containerd"), &arguments, &log)?);
        let answers = wait_for("containerd to answer", || async {
            self.ctr(&["version"], Stdio::null()).map(drop).map_err(|error| error.to_string())
        });
        answers.await.with_context(|| told(self.containerd.as_ref()))
    }

    async fn ready(&self, client: Client) -> Result<()> {
        let nodes: Api<NodeObject> = Api::all(client);
        let ready = tokio::time::timeout(DEADLINE, await_condition(nodes, NAME, is_ready())).await;
        ready.with_context(|| format!("node {NAME} is not ready: {}", told(self.kubelet.as_ref())))??;
        let address = format!("{}:{PROXY_HEALTH}", self.machine.address());
        let ready = wait_for("kube-proxy to be ready", || async {
            match http_get(&address, "/healthz").await {
                Ok((200, _)) => Ok(()),
                Ok((_, body)) => Err(body),
                Err(error) => Err(error.to_string()),
            }
        });
        ready.await.with_context(|| told(self.proxy.as_ref()))
    }

    fn launch(&self, program: &str, arguments: &[String]) -> Result<Inside> {
        self.machine.launch(&self.binaries.join(program), arguments, &self.folder.join(format!("{program}.log")))
    }

    fn ctr(&self, words: &[&str], input: Stdio) -> Result<String> {
        self.machine.run(&[&["ctr", "--address", SOCKET, "--namespace", "k8s.io"], words].concat(), input)
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn test_images(&self) -> Result<[PathBuf; 2]> {
        let mut pause = Image::default();
        pause.file(&found("catatonit")?, "/catatonit")?;
        pause.set("Entrypoint", json!(["/catatonit", "-P"]));
        let pause = pause.write(PAUSE, &self.folder.join("pause.tar"))?;

        let mut busybox = Image::default();
        let program = found("busybox")?;
        busybox.file(&program, "/bin/busybox")?;
        let applets = Command::new(&program).arg("--list").output()?;
        for applet in String::from_utf8_lossy(&applets.stdout).lines().filter(|applet| *applet != "busybox") {
            busybox.link(&format!("/bin/{applet}"), "busybox")?;
        }
        busybox.set("Env", json!(["PATH=/bin"]));
        busybox.set("Entrypoint", json!(["/bin/sh"]));
        let busybox = busybox.write(BUSYBOX, &self.folder.join("busybox.tar"))?;
        Ok([pause.path, busybox.path])
    }

    fn write_configurations(&self) -> Result<()> {
        let plugins = machine::check().map_err(anyhow::Error::msg)?;
        let (machine, folder) = (&self.machine, self.folder.display());
        let network = json!({
            "cniVersion": "1.0.0", "name": "pods", "plugins": [
                {"type": "bridge", "bridge": "pods", "isGateway": true, "ipMasq": true, "hairpinMode": true,
                 "ipam": {"type": "host-local", "dataDir": "/run/ipam", "ranges": [[{"subnet": machine.pod_network()}]],
                          "routes": [{"dst": "0.0.0.0/0"}]}},
                {"type": "portmap", "capabilities": {"portMappings": true}},
            ]
        });
        fs::create_dir_all(self.folder.join("cni"))?;
        fs::write(self.folder.join("cni/pods.conflist"), network.to_string())?;
        let containerd = format!(
            r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  disable_apparmor = true
  # Without CAP_SYS_RESOURCE nothing may lower its oom_score_adj.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{folder}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"#,
            plugins = plugins.display()
        );
        fs::write(self.folder.join("containerd.toml"), containerd)?;
        let kubelet = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "address": machine.address(), "healthzPort": 0,
            "authentication": {"anonymous": {"enabled": false}, "x509": {"clientCAFile": self.file("ca.crt")}},
            "tlsCertFile": self.file("kubelet.crt"), "tlsPrivateKeyFile": self.file("kubelet.key"),
            "containerRuntimeEndpoint": format!("unix://{SOCKET}"),
            "cgroupDriver": "cgroupfs", "cgroupRoot": format!("/{}", machine.cgroup()), "failCgroupV1": false,
            "enforceNodeAllocatable": [], "failSwapOn": false,
            // The machine's disk and images are others' business.
            "evictionHard": {"memory.available": "100Mi"}, "imageGCHighThresholdPercent": 100,
            // For tests that serve names there; see `names`.
            "clusterDNS": [machine.host_address()],
            "resolvConf": "", "volumePluginDir": "/run/kubelet-plugins",
        });
        fs::write(self.folder.join("kubelet.yaml"), kubelet.to_string())?;
        let proxy = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": self.file("proxy.kubeconfig")},
            "hostnameOverride": NAME, "clusterCIDR": machine.pod_network(),
            "healthzBindAddress": format!("{}:{PROXY_HEALTH}", machine.address()),
            // Those of the whole machine stay.
            "conntrack": {"maxPerCore": 0, "min": 0},
        });
        fs::write(self.folder.join("proxy.yaml"), proxy.to_string())?;
        Ok(())
    }
}

fn is_ready() -> impl Condition<NodeObject> {
    |node: Option<&NodeObject>| {
        let conditions = node.and_then(|node| node.status.as_ref()?.conditions.as_ref());
        conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    }
}

/// The end of a program's log, as it goes with the cluster.
fn told(program: Option<&Inside>) -> String {
    program.map_or_else(String::new, |program| tail(&program.output()))
}

/// Where a program is.
fn found(program: &str) -> Result<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths).map(|folder| folder.join(program)).find(|path| path.exists());
    found.with_context(|| format!("{program} is not on the PATH"))
}
