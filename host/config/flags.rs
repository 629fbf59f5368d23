//! A configuration from the command line. The flags become the same raw values as a file's and pass the same checks;
//! a message underlines them in the command line they stand for.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use toml::Spanned;

use super::{
    AccessLog, Certificate, Config, Error, ListenTls,
    check::check,
    error::Problem,
    findings::is_name,
    raw::{self, Raw},
    units::ByteSize,
};

/// Flags of `holm serve` without a file: one pool `origin` and one route `default` that takes everything.
#[derive(Clone, Debug)]
pub struct Flags {
    /// `--origin`: endpoints of the pool, each `http://host:port`, `https://host:port` or `unix:/path`; at least
    /// one.
    pub origin: Vec<String>,
    /// `--listen`: where clients connect.
    pub listen: SocketAddr,
    /// `--tls-cert`, `--tls-key` or `--tls-self-signed`.
    pub tls: FlagsTls,
    /// `--http3`: HTTP/3 on the UDP port of the same number; only with TLS.
    pub http3: bool,
    /// `--policy`: a component for the route, named by its file's stem.
    pub policy: Option<PathBuf>,
    /// `--memory`: capacity of the memory tier.
    pub memory: ByteSize,
    /// `--disk`: directory of a disk tier.
    pub disk: Option<PathBuf>,
    /// `--disk-size`: capacity of the disk tier.
    pub disk_size: ByteSize,
    /// `--redis`: URL of a Redis tier.
    pub redis: Option<String>,
    /// `--admin`: address of the admin API.
    pub admin: Option<SocketAddr>,
    /// `--access-log`: where the access log is written.
    pub access_log: AccessLog,
}

/// TLS of `--listen`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum FlagsTls {
    /// Cleartext.
    #[default]
    Off,
    /// `--tls-cert` and `--tls-key`: PEM files.
    Files {
        /// Certificate chain, leaf first.
        certificate: PathBuf,
        /// Private key.
        key: PathBuf,
    },
    /// `--tls-self-signed`: a certificate that is made at the start, for this machine.
    SelfSigned,
}

impl Default for Flags {
    /// No origin yet; cleartext on `127.0.0.1:8080`, 256 MiB of memory, no other tier (a disk tier has 1 GiB), no policy,
    /// no admin API, the access log on standard output.
    fn default() -> Self {
        Self {
            origin: Vec::new(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            tls: FlagsTls::Off,
            http3: false,
            policy: None,
            memory: ByteSize::mib(256),
            disk: None,
            disk_size: ByteSize::gib(1),
            redis: None,
            admin: None,
            access_log: AccessLog::Stdout,
        }
    }
}

/// Validates flags; the policy must be there.
///
/// # Errors
/// Everything that is wrong with them, each with its place in the command line and what is allowed.
pub fn from_flags(flags: &Flags) -> Result<Config, Error> {
    let mut line = CommandLine::default();
    if flags.origin.is_empty() {
        let help = Some("add `--origin http://host:port`".to_owned());
        let problem = Problem { span: None, message: "there is no origin to send requests to".to_owned(), help };
        return Err(Error::invalid(NAME, &line.text, vec![problem]));
    }
    if flags.http3 && flags.tls == FlagsTls::Off {
        let help = Some("add `--tls-cert FILE --tls-key FILE`, or `--tls-self-signed` to try it out".to_owned());
        let problem = Problem { span: None, message: "HTTP/3 is always encrypted".to_owned(), help };
        return Err(Error::invalid(NAME, &line.text, vec![problem]));
    }
    let raw = line.spell(flags);
    let mut checked = check(&raw, Path::new(""));
    checked.look_for_files(&BTreeSet::new());
    let mut config = checked.finish(NAME, &line.text)?;
    if flags.tls == FlagsTls::SelfSigned {
        // No file says so: what nobody trusts is for trying things out.
        let names = own_names(flags.listen.ip());
        for listen in &mut config.listen {
            listen.tls = Some(ListenTls::new(vec![Certificate::SelfSigned { names: names.clone() }]));
        }
    }
    for listen in config.listen.iter_mut().filter(|_| flags.http3) {
        listen.http3 = Some(config.http3.clone());
    }
    Ok(config)
}

/// Returns what clients of this machine call it, and the address itself if it is one of several.
fn own_names(listen: IpAddr) -> Vec<String> {
    let mut names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    let listen = listen.to_string();
    if !(["0.0.0.0", "::"].contains(&listen.as_str()) || names.contains(&listen)) {
        names.push(listen);
    }
    names
}

/// Stands for a file's name in messages.
const NAME: &str = "command line";
const POOL: &str = "origin";
const ROUTE: &str = "default";

/// The flags spelled out, so that a message has something to point at.
#[derive(Default)]
struct CommandLine {
    text: String,
}

impl CommandLine {
    fn spell(&mut self, flags: &Flags) -> Raw {
        let endpoints: Vec<_> =
            flags.origin.iter().map(|url| self.put("--origin", url, raw::Endpoint::Url(url.clone()))).collect();
        let address = self.text("--listen", &flags.listen.to_string());
        let tls = self.tls(&flags.tls);
        let listen = raw::Listen {
            address,
            tls,
            http3: None,
            http3_port: None,
            proxy_protocol: Vec::new(),
            reuse_port: None,
            mode: None,
        };
        let policy = flags.policy.as_ref().map(|file| self.policy(file));
        let cache = self.cache(flags);
        let admin = flags.admin.map(|it| raw::Admin {
            address: self.text("--admin", &it.to_string()),
            tls: None,
            token_file: None,
            hosts: Vec::new(),
            unprotected: None,
        });
        let access = self.text("--access-log", &flags.access_log.to_string());
        let pool = raw::Pool { endpoints: Some(nowhere(endpoints)), ..raw::Pool::default() };
        Raw {
            listen: vec![listen],
            admin,
            cache,
            pool: BTreeMap::from([(nowhere(POOL.to_owned()), pool)]),
            route: vec![route(policy.as_ref().map(|(name, _)| name.clone()))],
            policy: policy.into_iter().collect(),
            log: raw::Log { access: Some(access), ..raw::Log::default() },
            ..Raw::default()
        }
    }

    fn tls(&mut self, tls: &FlagsTls) -> Option<raw::ListenTls> {
        let FlagsTls::Files { certificate, key } = tls else { return None };
        Some(raw::ListenTls {
            certificate: self.put("--tls-cert", &certificate.display().to_string(), certificate.clone()),
            key: self.put("--tls-key", &key.display().to_string(), key.clone()),
            ocsp: None,
            further: Vec::new(),
        })
    }

    fn policy(&mut self, file: &Path) -> (Spanned<String>, raw::Policy) {
        let stem = file.file_stem().and_then(|stem| stem.to_str()).filter(|stem| is_name(stem)).unwrap_or("policy");
        let file = self.put("--policy", &file.display().to_string(), file.to_owned());
        let policy = raw::Policy {
            file,
            config: None,
            limits: raw::PolicyLimits::default(),
            memo: raw::Memo::default(),
            rollout: raw::Rollout::default(),
        };
        (nowhere(stem.to_owned()), policy)
    }

    fn cache(&mut self, flags: &Flags) -> raw::Cache {
        let memory = raw::Memory { bytes: Some(self.size("--memory", flags.memory)), ..raw::Memory::default() };
        let disk = flags.disk.as_ref().map(|dir| raw::Disk {
            dir: self.put("--disk", &dir.display().to_string(), dir.clone()),
            bytes: Some(self.size("--disk-size", flags.disk_size)),
        });
        let redis = flags.redis.as_ref().map(|url| raw::Redis {
            url: self.text("--redis", url),
            budget_ms: None,
            value_bytes_max: None,
            writes_queued_max: None,
            writes_at_once_max: None,
            writes_at_once_bytes_max: None,
            parts_at_once_bytes_max: None,
            lease_ms: None,
            lease_wait_ms: None,
            breaker: raw::Breaker::default(),
        });
        raw::Cache { memory, disk, redis, ..raw::Cache::default() }
    }

    fn text(&mut self, flag: &str, value: &str) -> Spanned<String> {
        self.put(flag, value, value.to_owned())
    }

    fn size(&mut self, flag: &str, value: ByteSize) -> Spanned<ByteSize> {
        self.put(flag, &value.to_string(), value)
    }

    fn put<T>(&mut self, flag: &str, shown: &str, value: T) -> Spanned<T> {
        if !self.text.is_empty() {
            self.text.push(' ');
        }
        self.text.push_str(flag);
        self.text.push(' ');
        let start = self.text.len();
        self.text.push_str(shown);
        Spanned::new(start..self.text.len(), value)
    }
}

/// Wraps a value that isn't from a flag.
fn nowhere<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}

fn route(policy: Option<Spanned<String>>) -> raw::Route {
    raw::Route {
        name: nowhere(ROUTE.to_owned()),
        hosts: Vec::new(),
        path: None,
        methods: Vec::new(),
        headers: BTreeMap::new(),
        query: BTreeMap::new(),
        rewrite: None,
        request_headers: raw::FieldEdits::default(),
        response_headers: raw::FieldEdits::default(),
        redirect: None,
        respond: None,
        body_bytes_max: None,
        response_ms: None,
        requests_max: None,
        mode: None,
        range_miss: None,
        protocol: None,
        pool: Some(nowhere(POOL.to_owned())),
        candidates: Vec::new(),
        policy,
        on_fault: None,
        forward_path: None,
        ignore_headers: Vec::new(),
        parents: None,
        parents_share_purges: None,
        replicate: None,
        key_without_body: None,
        indivisible: None,
        compress: Vec::new(),
        compress_bytes_min: None,
        compress_types: None,
        deltas: Vec::new(),
        deltas_max: None,
        deltas_bytes_max: None,
        deltas_wait_ms: None,
        tenant: None,
        tenant_weights: BTreeMap::new(),
        ttl_ms: None,
        heuristic_max_ms: None,
        grace_ms: None,
        stale_if_error_ms: None,
        stale_if_unreachable_ms: None,
        keep_ms: None,
        tag_headers: Vec::new(),
        websocket: None,
        targeted: None,
        reload: None,
        store_set_cookie: None,
        query_key: None,
        query_body_bytes_max: None,
        cache_groups: None,
        no_vary_search: None,
        refresh_ahead: None,
        underscores_in_headers: None,
        key_client_region: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Cache, Disk, Endpoint, Http3, Listen, PolicySource, Pool, Redis, Route, Tls};

    fn flags() -> Flags {
        Flags { origin: vec!["http://127.0.0.1:9000".to_owned()], ..Flags::default() }
    }

    fn debug(it: impl std::fmt::Debug) -> String {
        format!("{it:?}")
    }

    #[test]
    fn one_flag_is_enough() {
        let config = from_flags(&flags()).unwrap();
        assert_eq!(config.listen, [Listen::new("127.0.0.1:8080".parse().unwrap())]);
        assert_eq!(debug(&config.cache), debug(Cache::default()));
        assert_eq!(debug(&config.routes), debug([Route::new("default", "origin")]));
        let endpoints = config.pools["origin"].endpoints.clone();
        assert_eq!(endpoints, [Endpoint::new("http://127.0.0.1:9000".parse().unwrap())]);
        assert_eq!(debug(&config.pools["origin"]), debug(Pool::new(endpoints)));
        assert!(config.policies.is_empty() && config.admin.is_none());
    }

    #[test]
    fn every_flag_arrives() {
        let dir = tempfile::tempdir().unwrap();
        let policy = dir.path().join("tenant-key.wasm");
        std::fs::write(&policy, "").unwrap();
        let config = from_flags(&Flags {
            origin: vec!["http://a:1".to_owned(), "https://b:2".to_owned()],
            listen: "[::1]:80".parse().unwrap(),
            tls: FlagsTls::Files { certificate: policy.clone(), key: policy.clone() },
            http3: true,
            policy: Some(policy.clone()),
            memory: ByteSize::mib(3),
            disk: Some(PathBuf::from("cache")),
            disk_size: ByteSize::gib(2),
            redis: Some("redis://r".to_owned()),
            admin: Some("127.0.0.1:9901".parse().unwrap()),
            access_log: AccessLog::Off,
        })
        .unwrap();
        assert_eq!(config.listen[0].address.to_string(), "[::1]:80");
        let pair = Tls { certificate: policy.clone(), key: policy.clone() };
        let tls = ListenTls::new(vec![Certificate::Files { pair, ocsp: None }]);
        assert_eq!((config.listen[0].tls.clone(), config.listen[0].http3.clone()), (Some(tls), Some(Http3::default())));
        assert_eq!(config.pools["origin"].endpoints.len(), 2);
        assert_eq!(config.cache.memory.bytes, 3 << 20);
        assert_eq!(debug(&config.cache.disk), debug(Some(Disk { bytes: 2 << 30, ..Disk::new("cache") })));
        assert_eq!(debug(&config.cache.redis), debug(Some(Redis::new("redis://r"))));
        assert_eq!(config.admin.map(|it| it.address.port()), Some(9901));
        assert_eq!(config.log.access, AccessLog::Off);
        assert_eq!(config.routes[0].policy.as_deref(), Some("tenant-key"));
        assert_eq!(debug(&config.policies["tenant-key"].source), debug(PolicySource::File(policy)));
    }

    #[test]
    fn a_self_signed_certificate_is_for_this_machine() {
        for (listen, more) in [("127.0.0.1:1", None), ("0.0.0.0:1", None), ("192.0.2.7:1", Some("192.0.2.7"))] {
            let flags = Flags { listen: listen.parse().unwrap(), tls: FlagsTls::SelfSigned, ..flags() };
            let tls = from_flags(&flags).unwrap().listen.remove(0).tls.unwrap();
            let names = ["localhost", "127.0.0.1", "::1"].into_iter().chain(more).map(str::to_owned).collect();
            assert_eq!(tls.certificates, [Certificate::SelfSigned { names }], "{listen}");
        }
    }

    #[test]
    fn what_is_wrong_is_underlined_in_the_command_line() {
        let wrong = Flags {
            origin: vec!["localhost:9000".to_owned()],
            policy: Some(PathBuf::from("./no-such-policy.wasm")),
            memory: ByteSize(17),
            tls: FlagsTls::Files { certificate: PathBuf::from("./no.pem"), key: PathBuf::from("./no-key.pem") },
            ..Flags::default()
        };
        let error = from_flags(&wrong).unwrap_err();
        let shown = error.render(false);
        for piece in [
            "--origin localhost:9000 --listen 127.0.0.1:8080 --tls-cert ./no.pem --tls-key ./no-key.pem",
            "the certificate can't be read",
            "the certificate's key can't be read",
            "[command line:1:10]",
            "`localhost:9000` is no endpoint",
            "the policy can't be read",
            "`bytes` can't be 17B",
            "command line: 5 problems",
        ] {
            assert!(shown.contains(piece), "{piece} is missing in\n{shown}");
        }
    }

    #[test]
    fn http_3_needs_tls() {
        let shown = from_flags(&Flags { http3: true, ..flags() }).unwrap_err().to_string();
        assert!(shown.contains("HTTP/3 is always encrypted") && shown.contains("--tls-self-signed"), "{shown}");
        let made = from_flags(&Flags { http3: true, tls: FlagsTls::SelfSigned, ..flags() }).unwrap();
        assert_eq!(made.listen[0].http3, Some(Http3::default()));
    }

    #[test]
    fn an_origin_is_needed() {
        let shown = from_flags(&Flags::default()).unwrap_err().to_string();
        assert_eq!(shown, "command line: there is no origin to send requests to (add `--origin http://host:port`)");
    }
}
