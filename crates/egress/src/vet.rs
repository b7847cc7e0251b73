//! From a target to the addresses that may be dialled for it, now.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::dial::is_own;
use crate::resolve::{Answer, Resolver};
use crate::{AddressClass, Host, Refusal, ResolverFault, Rules, Target, names};

/// Addresses that were judged for one attempt of one request, and passed. Nothing else can be dialled, and
/// nothing but [`vet`] makes them.
#[derive(Debug)]
pub(crate) struct Vetted(Vec<SocketAddr>);

impl Vetted {
    /// In the order in which they are to be tried; never empty.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.0
    }
}

/// Why there is nothing to dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unvetted {
    Refused(Refusal),
    Unknown(ResolverFault),
}

/// What is known about a target, without calling it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it may be called.
    pub outcome: Outcome,
    /// Every address that its host has, and what each is for. Empty if nobody was asked.
    pub addresses: Vec<(IpAddr, AddressClass)>,
}

/// Whether a target may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It may.
    Allowed,
    /// It may not.
    Refused(Refusal),
    /// The name servers could not say where it is.
    Unknown(ResolverFault),
}

impl Verdict {
    /// The verdict on a URL that was refused for its text.
    pub(crate) fn refused(refusal: Refusal) -> Self {
        Self { outcome: Outcome::Refused(refusal), addresses: Vec::new() }
    }
}

/// Judges a target, asks where it is, and judges every answer.
pub(crate) async fn vet(rules: &Rules, resolver: &Resolver, target: &Target) -> Result<Vetted, Unvetted> {
    rules.judge(target).map_err(Unvetted::Refused)?;
    let answer = locate(resolver, target).await?;
    judge_answer(rules, target, &answer).map_err(Unvetted::Refused)
}

/// The same, for people who want to know why.
pub(crate) async fn examine(rules: &Rules, resolver: &Resolver, target: &Target) -> Verdict {
    if let Err(refusal) = rules.judge(target) {
        return Verdict::refused(refusal);
    }
    let answer = locate(resolver, target).await;
    let outcome = match &answer {
        Ok(answer) => judge_answer(rules, target, answer).map_or_else(Outcome::Refused, |_| Outcome::Allowed),
        Err(Unvetted::Refused(refusal)) => Outcome::Refused(*refusal),
        Err(Unvetted::Unknown(fault)) => Outcome::Unknown(*fault),
    };
    let addresses = answer.map(|answer| answer.addresses).unwrap_or_default();
    Verdict { outcome, addresses: addresses.into_iter().map(|one| (one, AddressClass::of(one))).collect() }
}

async fn locate(resolver: &Resolver, target: &Target) -> Result<Answer, Unvetted> {
    match target.host() {
        Host::Address(address) => Ok(Answer { addresses: vec![*address], aliases: Vec::new() }),
        // These mean loopback, and no name server is asked (RFC 6761, section 6.3).
        Host::Name(name) if names::is_within(name, "localhost") => Ok(Answer {
            addresses: vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            aliases: Vec::new(),
        }),
        Host::Name(name) => {
            resolver.look_up(name).await.map_err(Unvetted::Unknown)?.map_err(Unvetted::Refused)
        }
    }
}

fn judge_answer(rules: &Rules, target: &Target, answer: &Answer) -> Result<Vetted, Refusal> {
    if !rules.is_danger(target) {
        answer.aliases.iter().try_for_each(|alias| names::judge(alias))?;
    }
    if answer.addresses.is_empty() {
        return Err(Refusal::NoAddress);
    }
    let judged = answer.addresses.iter().map(|address| {
        // A listener at `0.0.0.0` or `[::]` is reached at every address of this machine.
        if rules.listens_everywhere_at(target.port()) && is_own(*address) {
            return Err(Refusal::OwnAddress);
        }
        rules.judge_address(target, *address)?;
        Ok(SocketAddr::new(*address, target.port()))
    });
    judged.collect::<Result<_, _>>().map(Vetted)
}
