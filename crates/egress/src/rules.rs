use std::collections::HashSet;
use std::net::IpAddr;

use crate::{
    AddressClass, Cidr, Host, HostPort, Refusal, SelfAddress, Settings, SettingsError, Target, names,
};

/// The ports that anyone may be called at.
const PORTS: [u16; 2] = [443, 8443];

/// What may be called, as far as it can be said without asking anyone: the judging half of [`Settings`].
#[derive(Debug, Clone, Default)]
pub struct Rules {
    allow: Vec<Cidr>,
    deny: Vec<Cidr>,
    extra_ports: HashSet<u16>,
    own: Vec<SelfAddress>,
    danger: HashSet<HostPort>,
}

impl Rules {
    /// Takes the rules out of the settings.
    ///
    /// # Errors
    /// Port 0 among the extra ports.
    pub fn new(settings: &Settings) -> Result<Self, SettingsError> {
        if settings.extra_ports.contains(&0) {
            return Err(SettingsError::Port);
        }
        Ok(Self {
            allow: settings.allow_cidrs.clone(),
            deny: settings.deny_cidrs.clone(),
            extra_ports: settings.extra_ports.iter().copied().collect(),
            own: settings.self_addresses.clone(),
            danger: settings.danger.iter().cloned().collect(),
        })
    }

    /// Judges a target by its text alone.
    pub(crate) fn judge(&self, target: &Target) -> Result<(), Refusal> {
        let danger = self.is_danger(target);
        if !target.is_encrypted() && !danger {
            return Err(Refusal::Scheme);
        }
        if !self.has_port(target.port()) && !danger {
            return Err(Refusal::Port);
        }
        match target.host() {
            Host::Address(address) => self.judge_address(target, *address),
            Host::Name(_) if danger => Ok(()),
            Host::Name(name) => names::judge(name),
        }
    }

    /// Judges an address at which a target's host is said to be.
    pub(crate) fn judge_address(&self, target: &Target, address: IpAddr) -> Result<(), Refusal> {
        let port = target.port();
        if self.own.iter().any(|own| own.is(address, port))
            || (address.is_loopback() && self.listens_everywhere_at(port))
        {
            return Err(Refusal::OwnAddress);
        }
        if has(&self.deny, address) {
            return Err(Refusal::Closed);
        }
        let class = AddressClass::of(address);
        let opened = class.may_be_opened() && has(&self.allow, address);
        let danger = class == AddressClass::Loopback && self.is_danger(target);
        match class.refusal() {
            Some(refusal) if !opened && !danger => Err(refusal),
            _ => Ok(()),
        }
    }

    /// Whether a `[danger]` entry is about exactly this host and port.
    pub(crate) fn is_danger(&self, target: &Target) -> bool {
        !self.danger.is_empty() && self.danger.contains(&target.host_port())
    }

    /// Whether Keyholder listens at this port of every address that the machine has.
    pub(crate) fn listens_everywhere_at(&self, port: u16) -> bool {
        self.own.iter().any(|own| own.is_everywhere_at(port))
    }

    fn has_port(&self, port: u16) -> bool {
        PORTS.contains(&port) || self.extra_ports.contains(&port)
    }
}

fn has(ranges: &[Cidr], address: IpAddr) -> bool {
    ranges.iter().any(|range| range.contains(address))
}
