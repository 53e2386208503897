//! A real control plane of one's own: etcd, kube-apiserver and, if asked for, kube-controller-manager and a node.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, Config,
    api::{Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::wait::{await_condition, conditions},
};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::{
    certificates::Authority,
    machine::Machine,
    node::{self, Node},
    process::{Process, is_detached},
    programs::http_get,
    wait::wait_for,
};

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Members of etcd: one or three.
    pub etcd_members: usize,
    /// API servers.
    pub api_servers: usize,
    /// Whether there is a controller manager (garbage collection, service accounts): the binaries
    /// that `KUBEBUILDER_ASSETS` names may lack it; then the cluster goes without.
    pub controller_manager: bool,
    /// Whether etcd waits for the disk, as in production: for benchmarks.
    pub fsync: bool,
    /// Whether there is a node that runs pods, and with it a scheduler and a controller manager. Not every
    /// machine can have one: see [`node::available`].
    pub node: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { etcd_members: 1, api_servers: 1, controller_manager: false, fsync: false, node: false }
    }
}

/// A running cluster; gone when dropped, or when this process ends in any way.
pub struct Cluster {
    /// The node, if it was asked for.
    pub node: Option<Node>,
    /// The members of etcd.
    pub etcd: Vec<Process>,
    /// The API servers.
    pub api_servers: Vec<Process>,
    /// The controller manager, if it was asked for and there is its binary.
    pub controller_manager: Option<Process>,
    /// The scheduler, beside a node.
    pub scheduler: Option<Process>,
    etcd_urls: Vec<String>,
    etcd_arguments: Vec<Vec<String>>,
    /// The node's.
    machine: Option<Arc<Machine>>,
    folder: TempDir,
    binaries: PathBuf,
}

/// What connects to the API server beside the administrator: the name of its files, its user, and its group.
const COMPONENTS: [(&str, &str, Option<&str>); 4] = [
    ("kcm", "system:kube-controller-manager", None),
    ("scheduler", "system:kube-scheduler", None),
    ("proxy", "system:kube-proxy", None),
    ("kubelet", node::USER, Some("system:nodes")),
];

/// The root of the checkout.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

impl Cluster {
    /// One etcd member and one API server.
    ///
    /// # Errors
    /// When the binaries cannot be built, or something does not become ready.
    pub async fn start() -> Result<Self> {
        Self::with(Options::default()).await
    }

    /// As asked.
    ///
    /// # Errors
    /// As for [`Cluster::start`].
    pub async fn with(options: Options) -> Result<Self> {
        // Several starting at once on a small machine would all be slow.
        static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
        let _turn = TURN.lock().await;
        let binaries = binaries()?;
        let clusters = root().join("target/clusters");
        fs::create_dir_all(&clusters)?;
        sweep(&clusters);
        let folder = tempfile::Builder::new()
            .prefix(&format!("{}-", if is_detached() { "kept".to_owned() } else { std::process::id().to_string() }))
            .tempdir_in(&clusters)?;
        let machine = if options.node { Some(Arc::new(machine(folder.path()).await?)) } else { None };
        issue_certificates(folder.path(), machine.as_deref())?;
        let mut cluster = Self {
            node: None,
            etcd: Vec::new(),
            api_servers: Vec::new(),
            controller_manager: None,
            scheduler: None,
            etcd_urls: Vec::new(),
            etcd_arguments: Vec::new(),
            machine,
            folder,
            binaries,
        };
        cluster.start_etcd(&options)?;
        for index in 0..options.api_servers {
            cluster.start_api_server(index)?;
        }
        for index in 0..options.api_servers {
            cluster.ready(index).await?;
        }
        if options.controller_manager || options.node {
            cluster.start_controller_manager().await?;
        }
        if let Some(machine) = &cluster.machine {
            cluster.scheduler = Some(cluster.start_scheduler()?);
            let (machine, client) = (Arc::clone(machine), cluster.client().await?);
            cluster.node = Some(Node::start(machine, cluster.folder(), &cluster.binaries, client).await?);
        }
        Ok(cluster)
    }

    /// The folder of logs, keys and data.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The administrator's kubeconfig for an API server.
    #[must_use]
    pub fn kubeconfig(&self, api_server: usize) -> PathBuf {
        self.folder().join(format!("kubeconfig{api_server}"))
    }

    /// A kubeconfig with the rights of a service account (`NAMESPACE:NAME`) and no others.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn kubeconfig_of(&self, account: &str) -> Result<PathBuf> {
        let text = fs::read_to_string(self.kubeconfig(0))?;
        let user = format!("user: {{as: 'system:serviceaccount:{account}', ");
        let path = self.folder().join(format!("kubeconfig-{}", account.replace(':', "-")));
        fs::write(&path, text.replace("user: {", &user))?;
        Ok(path)
    }

    /// An administrator's client of the first API server.
    ///
    /// # Errors
    /// When the kubeconfig cannot be used.
    pub async fn client(&self) -> Result<Client> {
        client(&self.kubeconfig(0)).await
    }

    /// Runs kubectl as administrator and returns its output.
    ///
    /// # Errors
    /// With what it said, when it fails.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        kubectl(&self.binaries.join("kubectl"), &self.kubeconfig(0), arguments)
    }

    /// The path of kubectl.
    #[must_use]
    pub fn kubectl_path(&self) -> PathBuf {
        self.binaries.join("kubectl")
    }

    /// Kills the leader of etcd; the index of the member it was.
    ///
    /// # Errors
    /// When no member answers as the leader.
    pub async fn kill_etcd_leader(&mut self) -> Result<usize> {
        let leader = self.etcd_leader().await?;
        self.etcd[leader].kill();
        Ok(leader)
    }

    /// Starts a member of etcd again that was killed.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart_etcd(&mut self, member: usize) -> Result<()> {
        self.etcd[member] = self.launch("etcd", &format!("etcd{member}"), &self.etcd_arguments[member])?;
        Ok(())
    }

    /// Cuts a member of etcd off (SIGSTOP), or brings it back: its connections stay open, and nothing comes through.
    pub fn cut_off_etcd(&self, member: usize, cut: bool) {
        self.etcd[member].signal(if cut { Signal::STOP } else { Signal::CONT });
    }

    /// The index of the leader of etcd.
    ///
    /// # Errors
    /// When no member answers as the leader.
    pub async fn etcd_leader(&self) -> Result<usize> {
        wait_for("etcd to have a leader", || async {
            for (index, url) in self.etcd_urls.iter().enumerate() {
                let metrics = http_get(url.trim_start_matches("http://"), "/metrics").await;
                if metrics.is_ok_and(|(_, text)| text.lines().any(|line| line == "etcd_server_is_leader 1")) {
                    return Ok(index);
                }
            }
            Err("no member says it is".to_owned())
        })
        .await
    }

    /// Kills an API server; [`Cluster::restart_api_server`] brings it back on the same port.
    pub fn kill_api_server(&mut self, index: usize) {
        self.api_servers[index].kill();
    }

    /// Starts a killed API server again.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn restart_api_server(&mut self, index: usize) -> Result<()> {
        let words = fs::read_to_string(self.folder().join(format!("apiserver{index}.args")))?;
        let arguments: Vec<String> = words.lines().map(str::to_owned).collect();
        self.api_servers[index] = self.launch("kube-apiserver", &format!("apiserver{index}"), &arguments)?;
        self.ready(index).await
    }

    fn launch(&self, program: &str, name: &str, arguments: &[String]) -> Result<Process> {
        let log = self.folder().join(format!("{name}.log"));
        Process::start(&self.binaries.join(program), arguments, &[], &log)
    }

    fn start_etcd(&mut self, options: &Options) -> Result<()> {
        ensure!(matches!(options.etcd_members, 1 | 3), "etcd has one or three members");
        let ports = free_ports(2 * options.etcd_members)?;
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let members: Vec<(u16, u16)> = ports.chunks(2).map(|pair| (pair[0], pair[1])).collect();
        let initial: Vec<String> = members.iter().enumerate().map(|(n, m)| format!("m{n}={}", url(m.1))).collect();
        for (index, (client, peer)) in members.iter().enumerate() {
            let mut arguments = vec![
                format!("--name=m{index}"),
                format!("--data-dir={}", self.folder().join(format!("etcd{index}")).display()),
                format!("--listen-client-urls={}", url(*client)),
                format!("--advertise-client-urls={}", url(*client)),
                format!("--listen-peer-urls={}", url(*peer)),
                format!("--initial-advertise-peer-urls={}", url(*peer)),
                format!("--initial-cluster={}", initial.join(",")),
            ];
            if !options.fsync {
                arguments.push("--unsafe-no-fsync".into());
            }
            let member = self.launch("etcd", &format!("etcd{index}"), &arguments)?;
            self.etcd.push(member);
            self.etcd_arguments.push(arguments);
        }
        self.etcd_urls = members.iter().map(|member| url(member.0)).collect();
        Ok(())
    }

    fn start_api_server(&mut self, index: usize) -> Result<()> {
        let port = free_ports(1)?[0];
        let file = |name: &str| self.folder().join(name).display().to_string();
        let address = self.address();
        let mut arguments = vec![
            format!("--etcd-servers={}", self.etcd_urls.join(",")),
            format!("--secure-port={port}"),
            format!("--bind-address={address}"),
            format!("--advertise-address={address}"),
            format!("--tls-cert-file={}", file("apiserver.crt")),
            format!("--tls-private-key-file={}", file("apiserver.key")),
            format!("--client-ca-file={}", file("ca.crt")),
            format!("--service-account-key-file={}", file("sa.pub")),
            format!("--service-account-signing-key-file={}", file("sa.key")),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            "--service-cluster-ip-range=10.0.0.0/24".into(),
            "--authorization-mode=Node,RBAC".into(),
        ];
        if self.machine.is_some() {
            arguments.extend([
                "--enable-admission-plugins=NodeRestriction".into(),
                "--kubelet-preferred-address-types=InternalIP".into(),
                format!("--kubelet-certificate-authority={}", file("ca.crt")),
                format!("--kubelet-client-certificate={}", file("admin.crt")),
                format!("--kubelet-client-key={}", file("admin.key")),
            ]);
        } else {
            // No pod looks for it, and a loopback address would be refused.
            arguments.push("--endpoint-reconciler-type=none".into());
        }
        fs::write(self.folder().join(format!("apiserver{index}.args")), arguments.join("\n"))?;
        let server = self.launch("kube-apiserver", &format!("apiserver{index}"), &arguments)?;
        self.api_servers.push(server);
        fs::write(self.kubeconfig(index), self.kubeconfig_text(port, "admin"))?;
        if index == 0 {
            for (user, ..) in COMPONENTS {
                fs::write(self.folder().join(format!("{user}.kubeconfig")), self.kubeconfig_text(port, user))?;
            }
        }
        Ok(())
    }

    /// Where the API servers are: where pods can reach them, if there are any.
    fn address(&self) -> String {
        self.machine.as_ref().map_or_else(|| "127.0.0.1".to_owned(), |machine| machine.host_address())
    }

    fn kubeconfig_text(&self, port: u16, user: &str) -> String {
        let (folder, address) = (self.folder().display(), self.address());
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             clusters: [{{name: c, cluster: {{server: 'https://{address}:{port}', certificate-authority: '{folder}/ca.crt'}}}}]\n\
             users: [{{name: u, user: {{client-certificate: '{folder}/{user}.crt', client-key: '{folder}/{user}.key'}}}}]\n\
             contexts: [{{name: c, context: {{cluster: c, user: u, namespace: default}}}}]\n"
        )
    }

    async fn ready(&mut self, index: usize) -> Result<()> {
        let client = client(&self.kubeconfig(index)).await?;
        let server = &mut self.api_servers[index];
        let ready = wait_for("kube-apiserver to be ready", || {
            let request = http::Request::get("/readyz").body(Vec::new());
            let (client, ended) = (client.clone(), server.ended());
            async move {
                if let Some(status) = ended {
                    return Ok(Err(status));
                }
                let request = request.map_err(|e| e.to_string())?;
                client.request_text(request).await.map(|_| Ok(())).map_err(|e| e.to_string())
            }
        });
        match ready.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => {
                bail!("kube-apiserver ended with {status}:\n{}", tail(&self.api_servers[index].output()))
            }
            Err(error) => Err(error.context(tail(&self.api_servers[index].output()))),
        }
    }

    async fn start_controller_manager(&mut self) -> Result<()> {
        let folder = self.binaries.display();
        if !self.binaries.join("kube-controller-manager").exists() {
            eprintln!("{folder} has no kube-controller-manager: going on without (nothing collects garbage)");
            return Ok(());
        }
        let file = |name: &str| self.folder().join(name).display().to_string();
        let mut arguments = self.controller_arguments("kcm")?;
        arguments.extend([
            format!("--service-account-private-key-file={}", file("sa.key")),
            format!("--root-ca-file={}", file("ca.crt")),
            "--use-service-account-credentials=true".into(),
        ]);
        self.controller_manager = Some(self.launch("kube-controller-manager", "kcm", &arguments)?);
        wait_for("the default service account", || async {
            self.kubectl(&["get", "serviceaccount", "default"]).map_err(|e| e.to_string())
        })
        .await?;
        Ok(())
    }

    fn start_scheduler(&self) -> Result<Process> {
        self.launch("kube-scheduler", "scheduler", &self.controller_arguments("scheduler")?)
    }

    /// What all that works by the API alone is given.
    fn controller_arguments(&self, user: &str) -> Result<Vec<String>> {
        let kubeconfig = self.folder().join(format!("{user}.kubeconfig")).display().to_string();
        Ok(vec![
            format!("--kubeconfig={kubeconfig}"),
            format!("--authentication-kubeconfig={kubeconfig}"),
            format!("--authorization-kubeconfig={kubeconfig}"),
            "--authentication-skip-lookup=true".into(),
            format!("--secure-port={}", free_ports(1)?[0]),
            "--bind-address=127.0.0.1".into(),
            "--leader-elect=false".into(),
        ])
    }

    /// Stops (SIGSTOP) or continues an API server: it accepts connections but does not answer.
    pub fn pause_api_server(&self, index: usize, paused: bool) {
        self.api_servers[index].signal(if paused { Signal::STOP } else { Signal::CONT });
    }

    /// Installs the CRDs.
    ///
    /// # Errors
    /// When the API server refuses them.
    pub async fn install_crds(&self) -> Result<()> {
        install_crds(&self.client().await?).await
    }
}

/// Installs the CRDs and waits until they are served.
///
/// # Errors
/// When the API server refuses them.
pub async fn install_crds(client: &Client) -> Result<()> {
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    for (_, text) in quorate_crds::crd_documents()? {
        let crd: CustomResourceDefinition = serde_yaml::from_str(&text)?;
        let name = crd.metadata.name.clone().unwrap_or_default();
        crds.patch(&name, &PatchParams::apply("quorate-tests").force(), &Patch::Apply(&crd)).await?;
        await_condition(crds.clone(), &name, conditions::is_crd_established()).await?;
    }
    Ok(())
}

/// Runs kubectl.
///
/// # Errors
/// With what it said, when it fails.
pub fn kubectl(path: &Path, kubeconfig: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new(path).arg("--kubeconfig").arg(kubeconfig).args(arguments).output()?;
    ensure!(
        output.status.success(),
        "kubectl {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A client as a kubeconfig says, without hidden retries.
///
/// # Errors
/// When the kubeconfig cannot be used.
pub async fn client(kubeconfig: &Path) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

/// The folder of the control plane's binaries, built if need be.
///
/// # Errors
/// With the ways out, when they cannot be built.
pub fn binaries() -> Result<PathBuf> {
    let output = Command::new(root().join("tests/cluster/build.sh"))
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("tests/cluster/build.sh")?;
    ensure!(output.status.success(), "the control plane was not built; the reason is above");
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

async fn machine(cluster: &Path) -> Result<Machine> {
    let name = cluster.file_name().unwrap_or_default().to_string_lossy();
    Machine::start(&name, &cluster.join("machine.log")).await.context("a node was asked for")
}

fn issue_certificates(folder: &Path, machine: Option<&Machine>) -> Result<()> {
    let addresses = machine.map_or_else(Vec::new, |machine| vec![machine.host_address(), machine.address()]);
    let authority = Authority::new(folder, &addresses)?;
    authority.issue("apiserver", "kube-apiserver", None)?;
    authority.issue("admin", "admin", Some("system:masters"))?;
    for (file, user, group) in COMPONENTS {
        authority.issue(file, user, group)?;
    }
    Ok(())
}

/// Free loopback ports. Another process may take one meanwhile; then the server says so and ends.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    Ok(listeners.iter().map(|l| l.local_addr().map(|a| a.port())).collect::<Result<_, _>>()?)
}

/// Removes what killed processes left behind.
fn sweep(clusters: &Path) {
    for entry in fs::read_dir(clusters).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.split('-').next().unwrap_or_default();
        if pid != "kept" && !Path::new("/proc").join(pid).exists() {
            // Somebody else may be sweeping too.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

pub(crate) fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
