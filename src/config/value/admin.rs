//! Values of the admin table.

use super::super::error::{Complaint, quoted};
use super::{Address, AdminAddress, NodePlace, Scalar};

impl Scalar for AdminAddress {
    const FORMAT: &'static str = "admin-address";
    const ALLOWED: &'static str = "IP:PORT, such as \"127.0.0.1:8081\" or \"[::1]:8081\", or \"unix:/PATH\"";

    fn parse(text: &str) -> Result<Self, Complaint> {
        if text.starts_with("unix:") {
            return text.parse().map(AdminAddress).map_err(|why| Complaint::new(format!("{} {why}", quoted(text))));
        }
        Address::parse(text).map(|Address(address)| AdminAddress(address.into()))
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

impl Scalar for NodePlace {
    const FORMAT: &'static str = "node-place";
    const ALLOWED: &'static str = "a network such as \"10.0.0.0/8\", a host name, or \"*.DOMAIN\"";

    fn parse(text: &str) -> Result<Self, Complaint> {
        text.parse().map(NodePlace).map_err(|why| Complaint::new(format!("{} {why}", quoted(text))))
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}
