//! The trust of one cluster: an authority, certificates of its parts signed by it, and what each part needs to find the API server.
//!
//! Made once for each cluster that is brought up, all or nothing: the last file written is a mark, and without it everything is made anew
//! (no node has started then).

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose,
};

use crate::address::Region;
use crate::failure::{Failure, make_directory, write_file};
use crate::place::Place;

/// Whoever has this group may do everything.
const ADMINISTRATORS: &str = "system:masters";

/// Written last.
const MARK: &str = "complete";

/// Files of one cluster.
#[derive(Clone, Debug)]
pub struct Pki {
    directory: PathBuf,
    region: Region,
}

impl Pki {
    /// Those of a region.
    pub fn of(place: &Place, region: Region) -> Self {
        Self {
            directory: place.pki(region),
            region,
        }
    }

    /// A certificate.
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.crt"))
    }

    /// Its key.
    pub fn key(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.key"))
    }

    /// What a client needs to find the API server and to show who it is.
    pub fn kubeconfig(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.kubeconfig"))
    }

    /// Makes all of them, unless they are there.
    pub fn ensure(&self) -> Result<(), Failure> {
        let mark = self.directory.join(MARK);
        if mark.exists() {
            return Ok(());
        }
        make_directory(&self.directory)?;
        fs::set_permissions(&self.directory, fs::Permissions::from_mode(0o700))
            .map_err(Failure::file("protect", &self.directory))?;
        let authority = self.authority("ca", &format!("twinshore-lab-{}", self.region))?;
        let front_proxy = self.authority("front-proxy-ca", "twinshore-lab-front-proxy")?;
        self.server(&authority)?;
        for (name, group, user) in [
            (
                "apiserver-kubelet",
                Some(ADMINISTRATORS),
                "apiserver-kubelet-client",
            ),
            ("admin", Some(ADMINISTRATORS), "admin"),
            ("kube-controller-manager", None, "system:kube-controller-manager"),
            ("kube-scheduler", None, "system:kube-scheduler"),
            ("kube-proxy", None, "system:kube-proxy"),
        ] {
            self.client(name, group, user, &authority)?;
        }
        for node in self.region.nodes() {
            let user = format!("system:node:{node}");
            self.client(
                &format!("kubelet-{node}"),
                Some("system:nodes"),
                &user,
                &authority,
            )?;
        }
        self.client("front-proxy-client", None, "front-proxy-client", &front_proxy)?;
        // Signs the tokens of service accounts.
        let tokens = new_key("service accounts")?;
        self.write_key("service-accounts", &tokens)?;
        write_file(
            &self.directory.join("service-accounts.pub"),
            tokens.public_key_pem(),
        )?;
        write_file(&mark, "")
    }

    fn authority(&self, name: &str, common_name: &str) -> Result<CertifiedIssuer<'static, KeyPair>, Failure> {
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(None, common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let key = new_key(name)?;
        self.write_key(name, &key)?;
        let issuer = CertifiedIssuer::self_signed(params, key).map_err(refused(name))?;
        write_file(&self.certificate(name), issuer.pem())?;
        Ok(issuer)
    }

    /// The API server's own.
    fn server(&self, authority: &CertifiedIssuer<'static, KeyPair>) -> Result<(), Failure> {
        let names = [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "localhost",
        ];
        let addresses = [
            Ipv4Addr::LOCALHOST,
            self.region.first_node().address(),
            self.region.api_service(),
        ];
        let alternatives: Vec<String> = names
            .into_iter()
            .map(str::to_owned)
            .chain(addresses.map(|address| address.to_string()))
            .collect();
        let params = CertificateParams::new(alternatives).map_err(refused("the API server"))?;
        self.leaf(
            "apiserver",
            params,
            distinguished_name(None, "kube-apiserver"),
            ExtendedKeyUsagePurpose::ServerAuth,
            authority,
        )
    }

    fn client(
        &self,
        name: &str,
        group: Option<&str>,
        user: &str,
        authority: &CertifiedIssuer<'static, KeyPair>,
    ) -> Result<(), Failure> {
        self.leaf(
            name,
            CertificateParams::default(),
            distinguished_name(group, user),
            ExtendedKeyUsagePurpose::ClientAuth,
            authority,
        )?;
        write_file(
            &self.kubeconfig(name),
            crate::kubeconfig::text(&[self.identity(name)]),
        )
    }

    fn leaf(
        &self,
        name: &str,
        mut params: CertificateParams,
        subject: DistinguishedName,
        usage: ExtendedKeyUsagePurpose,
        authority: &CertifiedIssuer<'static, KeyPair>,
    ) -> Result<(), Failure> {
        params.distinguished_name = subject;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let key = new_key(name)?;
        let certificate = params.signed_by(&key, authority).map_err(refused(name))?;
        self.write_key(name, &key)?;
        write_file(&self.certificate(name), certificate.pem())
    }

    fn write_key(&self, name: &str, key: &KeyPair) -> Result<(), Failure> {
        let path = self.key(name);
        write_file(&path, key.serialize_pem())?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(Failure::file("protect", &path))
    }

    /// A client of this cluster, for a kubeconfig.
    pub fn identity(&self, name: &str) -> crate::kubeconfig::Identity {
        crate::kubeconfig::Identity {
            cluster: self.region.name().to_owned(),
            server: self.region.api_url(),
            authority: self.certificate("ca"),
            certificate: self.certificate(name),
            key: self.key(name),
        }
    }

    /// Where the files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

fn new_key(what: &str) -> Result<KeyPair, Failure> {
    KeyPair::generate().map_err(refused(what))
}

fn refused(what: &str) -> impl FnOnce(rcgen::Error) -> Failure {
    let what = what.to_owned();
    move |source| Failure::Certificate { what, source }
}

/// The group is Kubernetes' `O`, the user its `CN`.
fn distinguished_name(group: Option<&str>, user: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(group) = group {
        name.push(DnType::OrganizationName, group);
    }
    name.push(DnType::CommonName, user);
    name
}
