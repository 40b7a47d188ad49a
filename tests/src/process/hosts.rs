//! Two sites as hosts: each in a network namespace of its own, and a third one for those who write to them. A veth pair leads
//! from the clients to each site and is never cut. Another one, the short line, joins the two sites, and is cut both ways,
//! one way, or at the plug. Beside it they have a long line, on which packets are under way for a while ([`relay`]).
//!
//! A direction is cut by sending its frames to an address at which nobody is: the other end falls silent, as where a network
//! drops packets, and nobody is told. That needs iproute2 and no firewall.
//!
//! All addresses are inside the namespaces: the machine's own network is left alone. Their names have the number of this
//! process in them. They go when this is dropped, also in a panic; what a killed process left, the next one removes.

pub mod relay;

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::panic::resume_unwind;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use lockstep_gateway::demo::sites::{Pair, Site};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use self::relay::{Delay, Ends, Relay};

/// What the names of all namespaces begin with; the number of a process follows.
const NAME_PREFIX: &str = "lockstep-";
/// Where the system keeps the namespaces that have a name.
const NAMES_DIR: &str = "/run/netns";
/// Hardware addresses of the sites on the lines between them.
const MAC_A: &str = "02:00:00:00:00:0a";
const MAC_B: &str = "02:00:00:00:00:0b";
/// Nobody has this one.
const MAC_NOBODY: &str = "02:00:00:00:00:0f";
/// Addresses on the way from the clients to each site: the clients' and the site's.
const TO_A: [&str; 2] = ["10.79.1.1", "10.79.1.2"];
const TO_B: [&str; 2] = ["10.79.2.1", "10.79.2.2"];

/// A line between the sites: what both call their port to it, and their addresses on it.
struct Line {
    port: &'static str,
    a: &'static str,
    b: &'static str,
}

const SHORT: Line = Line { port: "short", a: "10.79.3.1", b: "10.79.3.2" };
const LONG: Line = Line { port: "long", a: "10.79.4.1", b: "10.79.4.2" };

/// Two hosts and their clients.
#[derive(Debug)]
pub struct Hosts {
    relay: Result<Relay, String>,
    clients: Namespace,
    a: Namespace,
    b: Namespace,
}

impl Hosts {
    /// Makes them, with whole lines.
    ///
    /// # Errors
    /// With why this machine cannot, in one sentence.
    pub fn new() -> Result<Self, String> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        if Command::new("ip").arg("-Version").stdout(Stdio::null()).status().is_err() {
            return Err("iproute2 (the program ip) is not installed here".into());
        }
        sweep();
        let name = format!("{NAME_PREFIX}{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let made = ["clients", "a", "b"].map(|end| Namespace::make(format!("{name}-{end}")));
        let [Ok(clients), Ok(a), Ok(b)] = made else {
            let refusal = made.into_iter().find_map(Result::err).unwrap_or_default();
            return Err(format!("network namespaces cannot be made here, which root may: {refusal}"));
        };
        let joined = join(&clients, ["to-a", TO_A[0]], &a, ["clients", TO_A[1]], &[])
            .and_then(|()| join(&clients, ["to-b", TO_B[0]], &b, ["clients", TO_B[1]], &[]))
            .and_then(|()| join(&a, [SHORT.port, SHORT.a], &b, [SHORT.port, SHORT.b], &[MAC_A, MAC_B]));
        joined.map_err(|refusal| format!("veth pairs cannot be made here: {refusal}"))?;
        let relay = long_line(&clients, &a, &b);
        let hosts = Self { relay, clients, a, b };
        hosts.pass(true, true)?;
        Ok(hosts)
    }

    /// Runs something on threads that are in the clients' namespace, and so are the processes that they start.
    ///
    /// # Errors
    /// When a thread cannot go there.
    pub fn run<F: Future<Output: Send>>(&self, work: impl FnOnce() -> F + Send) -> Result<F::Output, String> {
        self.clients.within(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
            Ok(runtime.map_err(|error| error.to_string())?.block_on(work()))
        })
    }

    /// Moves two sites, which do not run yet, to these hosts, with one of the lines between them.
    ///
    /// # Errors
    /// When there is no long line: why.
    pub fn house(&self, pair: &mut Pair, is_long: bool) -> Result<(), String> {
        let line = if is_long { self.relay().map(|_| &LONG)? } else { &SHORT };
        let move_in = |site: &mut Site, namespace: &Namespace, clients: &str, mirror: &str| {
            for (address, host) in [(&mut site.s3, clients), (&mut site.admin, clients), (&mut site.mirror, mirror)] {
                *address = address.replace("127.0.0.1", host);
            }
            site.prefix = ["ip", "netns", "exec", &namespace.0].map(str::to_owned).to_vec();
        };
        move_in(&mut pair.a, &self.a, TO_A[1], line.a);
        move_in(&mut pair.b, &self.b, TO_B[1], line.b);
        Ok(())
    }

    /// Lets packets pass, or not, from A to B and from B to A, on both lines. Everything is plugged in.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn pass(&self, to_b: bool, to_a: bool) -> Result<(), String> {
        let turn = |from: &Namespace, passes: bool, mac: &str, peer: fn(&Line) -> &'static str| {
            let mac = if passes { mac } else { MAC_NOBODY };
            from.ip(self.lines().flat_map(|line| {
                let (port, peer) = (line.port, peer(line));
                [format!("link set {port} up"), format!("neigh replace {peer} lladdr {mac} dev {port} nud permanent")]
            }))
        };
        turn(&self.a, to_b, MAC_B, |line| line.b)?;
        turn(&self.b, to_a, MAC_A, |line| line.a)
    }

    /// Pulls the plugs at A: there the port is down, and who sends is told so; B sees that nobody is at the other end.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn unplug(&self) -> Result<(), String> {
        self.a.ip(self.lines().map(|line| format!("link set {} down", line.port)))
    }

    /// Says how long packets are under way on the long line.
    ///
    /// # Errors
    /// When there is none: why.
    pub fn delay(&self, delay: Delay) -> Result<(), String> {
        self.relay().map(|relay| relay.set(delay))
    }

    /// What carries the long line.
    ///
    /// # Errors
    /// Where there is none, with why this machine has none, in one sentence.
    pub fn relay(&self) -> Result<&Relay, String> {
        self.relay.as_ref().map_err(Clone::clone)
    }

    fn lines(&self) -> impl Iterator<Item = &'static Line> {
        std::iter::once(&SHORT).chain(self.relay.is_ok().then_some(&LONG))
    }
}

/// A network namespace with a name. It is removed when this is dropped.
#[derive(Debug)]
struct Namespace(String);

impl Namespace {
    fn make(name: String) -> Result<Self, String> {
        ip(&["netns", "add", &name], "")?;
        let made = Self(name);
        made.ip(["link set lo up".to_owned()])?;
        Ok(made)
    }

    /// Runs commands of `ip` in it, up to the first that fails.
    fn ip(&self, commands: impl IntoIterator<Item = String>) -> Result<(), String> {
        let text: String = commands.into_iter().map(|command| command + "\n").collect();
        ip(&["-n", &self.0, "-batch", "-"], &text)
    }

    /// Runs something on a thread in it.
    fn within<T: Send>(&self, work: impl FnOnce() -> Result<T, String> + Send) -> Result<T, String> {
        let path = Path::new(NAMES_DIR).join(&self.0);
        let enter = || {
            let file = File::open(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(|error| format!("no thread can go to {}: {error}", path.display()))
        };
        let on_thread = || enter().and_then(|()| work());
        thread::scope(|scope| scope.spawn(on_thread).join()).unwrap_or_else(|panic| resume_unwind(panic))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _gone = ip(&["netns", "delete", &self.0], "");
    }
}

/// Runs `ip`.
fn ip(words: &[&str], input: &str) -> Result<(), String> {
    let said = |text: &str| format!("ip {}: {}", words.join(" "), text.trim());
    let started =
        Command::new("ip").args(words).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = started.map_err(|error| said(&error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends early says why.
        let _ended = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| said(&error.to_string()))?;
    if output.status.success() { Ok(()) } else { Err(said(&String::from_utf8_lossy(&output.stderr))) }
}

/// Removes the namespaces of processes that are gone.
fn sweep() {
    let Ok(names) = std::fs::read_dir(NAMES_DIR) else { return };
    for name in names.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        let process = name.strip_prefix(NAME_PREFIX).and_then(|rest| rest.split('-').next());
        if process.is_some_and(|id| id.parse::<u32>().is_ok() && !Path::new("/proc").join(id).exists()) {
            drop(Namespace(name));
        }
    }
}

/// A veth pair between two namespaces: of each end its name and its address, and a hardware address where one is given.
fn join(
    one: &Namespace,
    [port, address]: [&str; 2],
    other: &Namespace,
    [other_port, other_address]: [&str; 2],
    macs: &[&str],
) -> Result<(), String> {
    let mac = |index: usize| macs.get(index).map_or_else(String::new, |mac| format!("address {mac}"));
    let (here, there) = (mac(0), mac(1));
    one.ip([
        format!("link add {port} {here} mtu 9000 type veth peer name {other_port} {there} mtu 9000 netns {}", other.0),
        format!("address add {address}/24 dev {port}"),
        format!("link set {port} up"),
    ])?;
    other.ip([format!("address add {other_address}/24 dev {other_port}"), format!("link set {other_port} up")])
}

/// The long line: a tunnel whose packets the clients' side holds for a while and passes on. Packets are one by one, as long
/// as jumbo frames, and the ends finish each other's checksums, which no device between them would do.
fn long_line(clients: &Namespace, a: &Namespace, b: &Namespace) -> Result<Relay, String> {
    let ends = clients.within(|| Ends::bind([TO_A, TO_B])).map_err(|error| format!("no port for a relay: {error}"))?;
    let ports = ends.ports();
    for (namespace, mac, address, [clients, own], port) in
        [(a, MAC_A, LONG.a, TO_A, ports[0]), (b, MAC_B, LONG.b, TO_B, ports[1])]
    {
        let long = LONG.port;
        let made = namespace.ip([
            format!(
                "link add {long} address {mac} mtu 8900 gso_max_segs 1 type vxlan id 1 local {own} remote {clients} \
                 dstport {port} nolearning udpcsum remcsumtx remcsumrx"
            ),
            format!("address add {address}/24 dev {long}"),
            format!("link set {long} up"),
        ]);
        made.map_err(|refusal| format!("this machine has no tunnels (vxlan) for a slow link: {refusal}"))?;
    }
    ends.carry()
}
