//! Names and addresses of the lab: pure, so that every part computes the same ones and none has to be looked up.
//!
//! With `R` = 1 for east and 2 for west, and `N` the number of a node:
//!
//! | what | address |
//! |---|---|
//! | the region's network, which all nodes of the region are on | `10.88.R.0/24` |
//! | its router, where packets for the other region go | `10.88.R.1` |
//! | its S3 server | `10.88.R.2` |
//! | node N | `10.88.R.(10+N)` |
//! | this machine, as the region sees it | `10.88.R.254` |
//! | pods of node N | `10.(10+R).N.0/24` |
//! | services | `10.(110+R).0.0/16`; DNS is its tenth address |
//!
//! The regions' addresses do not overlap, so packets need no translation on their way from one to the other.

use std::fmt;
use std::net::Ipv4Addr;

/// What names of network namespaces, links and cgroups begin with: everything of the lab can be found by it.
pub const PREFIX: &str = "twinshore-";

/// Where each region's S3 server listens.
pub const S3_PORT: u16 = 7070;

/// A region: one Kubernetes cluster, one network, one S3 server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Region {
    /// The primary region of the lab's volumes.
    East,
    /// The target region.
    West,
}

impl Region {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::East, Self::West];

    /// Its name: also that of its cluster and of its context in the kubeconfig.
    pub fn name(self) -> &'static str {
        match self {
            Self::East => "east",
            Self::West => "west",
        }
    }

    /// The region of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::BOTH.into_iter().find(|region| region.name() == name)
    }

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::East => Self::West,
            Self::West => Self::East,
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::East => 1,
            Self::West => 2,
        }
    }

    /// How many nodes it has: two in east, so that what must be shown between nodes can be.
    pub fn node_count(self) -> u8 {
        match self {
            Self::East => 2,
            Self::West => 1,
        }
    }

    /// Its nodes. The first one also runs the control plane.
    pub fn nodes(self) -> impl Iterator<Item = Node> {
        (1..=self.node_count()).map(move |number| Node { region: self, number })
    }

    /// The node with the control plane.
    pub fn first_node(self) -> Node {
        Node {
            region: self,
            number: 1,
        }
    }

    /// The name of its network namespace: a bridge, the router, and the S3 server.
    pub fn network_namespace(self) -> String {
        format!("{PREFIX}{}", self.name())
    }

    /// The link on this machine that leads into its network. At most 15 characters.
    pub fn host_link(self) -> String {
        format!("{PREFIX}{}", self.name())
    }

    /// An address in the region's network.
    fn address(self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 88, self.number(), last)
    }

    /// The region's network.
    pub fn network(self) -> Subnet {
        Subnet(self.address(0), 24)
    }

    /// Where packets for the other region go.
    pub fn router(self) -> Ipv4Addr {
        self.address(1)
    }

    /// Its S3 server.
    pub fn s3(self) -> Ipv4Addr {
        self.address(2)
    }

    /// Its S3 server, for clients of both regions.
    pub fn s3_endpoint(self) -> String {
        format!("http://{}:{S3_PORT}", self.s3())
    }

    /// This machine, as the region sees it.
    pub fn host(self) -> Ipv4Addr {
        self.address(254)
    }

    /// All pods.
    pub fn pods(self) -> Subnet {
        Subnet(Ipv4Addr::new(10, 10 + self.number(), 0, 0), 16)
    }

    /// All services.
    pub fn services(self) -> Subnet {
        Subnet(Ipv4Addr::new(10, 110 + self.number(), 0, 0), 16)
    }

    /// A service's address.
    fn service(self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 110 + self.number(), 0, last)
    }

    /// The API server as a service.
    pub fn api_service(self) -> Ipv4Addr {
        self.service(1)
    }

    /// The cluster's DNS.
    pub fn dns_service(self) -> Ipv4Addr {
        self.service(10)
    }

    /// The API server, from this machine and from the region's nodes.
    pub fn api_url(self) -> String {
        format!("https://{}:6443", self.first_node().address())
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A node: network, mount, process and other namespaces of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    /// Where it is.
    pub region: Region,
    /// From 1.
    pub number: u8,
}

impl Node {
    /// Every node of the lab.
    pub fn all() -> impl Iterator<Item = Self> {
        Region::BOTH.into_iter().flat_map(Region::nodes)
    }

    /// The node of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|node| node.to_string() == name)
    }

    /// Whether it runs the control plane.
    pub fn has_control_plane(self) -> bool {
        self.number == 1
    }

    /// The name of its network namespace, and of its cgroup.
    pub fn namespace(self) -> String {
        format!("{PREFIX}{self}")
    }

    /// The end in the region's network of its link.
    pub fn link(self) -> String {
        format!("node{}", self.number)
    }

    /// Its address.
    pub fn address(self) -> Ipv4Addr {
        self.region.address(10 + self.number)
    }

    /// The addresses of its pods.
    pub fn pods(self) -> Subnet {
        Subnet(Ipv4Addr::new(10, 10 + self.region.number(), self.number, 0), 24)
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}-{}", self.region.name(), self.number))
    }
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet(Ipv4Addr, u8);

impl Subnet {
    /// How many bits of an address name the range.
    pub fn prefix_length(self) -> u8 {
        self.1
    }

    /// Whether an address is in it.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        let mask = u32::MAX << (32 - u32::from(self.1));
        u32::from(address) & mask == u32::from(self.0) & mask
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0, self.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_ranges_of_the_lab_overlap() {
        let ranges: Vec<Subnet> = Region::BOTH
            .into_iter()
            .flat_map(|region| [region.network(), region.pods(), region.services()])
            .collect();
        for (index, one) in ranges.iter().enumerate() {
            for other in &ranges[index + 1..] {
                assert!(!one.contains(other.0) && !other.contains(one.0), "{one} {other}");
            }
        }
    }

    #[test]
    fn every_address_lies_in_its_range() {
        for region in Region::BOTH {
            for address in [region.router(), region.s3(), region.host()] {
                assert!(region.network().contains(address));
            }
            for address in [region.api_service(), region.dns_service()] {
                assert!(region.services().contains(address));
            }
            for node in region.nodes() {
                assert!(region.network().contains(node.address()));
                assert!(region.pods().contains(node.pods().0));
            }
        }
    }

    #[test]
    fn names_of_links_fit_the_kernel() {
        for region in Region::BOTH {
            assert!(region.host_link().len() <= 15);
        }
    }

    #[test]
    fn nodes_and_regions_are_found_by_name() {
        for node in Node::all() {
            assert_eq!(Node::named(&node.to_string()), Some(node));
        }
        assert_eq!(Node::named("east-3"), None);
        assert_eq!(Region::named("west"), Some(Region::West));
        assert_eq!(Region::named("north"), None);
    }
}
