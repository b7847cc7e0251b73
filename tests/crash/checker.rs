//! Compares what the providers saw with what there is, over the whole history.

use std::collections::BTreeMap;

use keyholder_domain::{Clock as _, SystemClock, Timestamp};
use keyholder_proto::v1;
use keyholder_proto::v1::connection_service_client::ConnectionServiceClient;
use keyholder_proto::v1::grant_service_client::GrantServiceClient;
use keyholder_testkit::provider::{Effect, Outcome, Refreshed, Reuse};
use time::Duration;
use tonic::transport::Channel;

use super::class::{Caller, Class, Made, SHORT};
use super::fleet::Ledger;
use super::rig::{Rig, uuid};
use crate::harness::{ACME, resolve_request};

/// An answer that came so long before its process died was not kept although there was time. It is far more
/// than it takes, for a machine that has other things to do.
const TIME_TO_KEEP: Duration = Duration::seconds(10);

/// A call that has neither been answered nor broken off is waited for at least so long: half of what it may
/// take.
const WAITED_FOR: Duration = Duration::seconds(5);

/// What was found.
pub(super) struct Findings {
    /// What must not be.
    pub(super) wrong: Vec<String>,
    /// A line for each class.
    pub(super) report: Vec<String>,
}

/// The calls of a class.
struct History<'a> {
    class: &'a Class,
    ledger: &'a Ledger,
    calls: Vec<Refreshed>,
    end: Timestamp,
}

/// Compares everything.
pub(super) async fn check(rig: &mut Rig) -> Findings {
    let mut findings = Findings { wrong: Vec::new(), report: Vec::new() };
    let world = &rig.oauth.world;
    let server = &rig.fleet.serving().expect("a process that serves").server;
    let mut connections = ConnectionServiceClient::new(world.channel_to(server, "console"));
    let mut grants = GrantServiceClient::new(world.channel_to(server, "gateway"));
    let events = lost_events(rig);
    for class in &rig.classes {
        let (mut calls, end) = (class.provider.refreshes(), SystemClock.now());
        calls.retain(|call| class.made.contains_key(&call.grant));
        let history = History { class, ledger: &rig.fleet.ledger, calls, end };
        history.check_reuse(&mut findings.wrong);
        history.check_overlaps(&mut findings.wrong);
        let (mut lost, mut revoked) = (0, 0);
        for (&grant, made) in &class.made {
            let now = get(&mut connections, &made.connection_id).await;
            let verdict = match now.state() {
                v1::ConnectionState::Active => is_good(class, made, &now, &mut grants).await,
                _ => {
                    lost += 1;
                    revoked += usize::from(now.state_reason == "REVOKED");
                    let told = events.get(&uuid(&made.connection_id)).copied().unwrap_or_default();
                    history.may_be_lost(grant, &now).and_then(|()| {
                        let once = told == 1;
                        once.then_some(()).ok_or_else(|| format!("{told} events say that it is lost"))
                    })
                }
            };
            if let Err(why) = verdict {
                let account = &made.account;
                findings.wrong.push(format!("{account}: {why}\n{}", history.of_grant(grant)));
            }
        }
        findings.report.push(history.line(lost, revoked));
    }
    check_oidc(rig, &mut findings).await;
    findings
}

async fn get(connections: &mut ConnectionServiceClient<Channel>, id: &str) -> v1::Connection {
    let request = v1::GetConnectionRequest { organization_id: ACME.into(), connection_id: id.to_owned() };
    connections.get_connection(request).await.unwrap().into_inner().connection.unwrap()
}

async fn resolve(
    grants: &mut GrantServiceClient<Channel>,
    connection: &v1::Connection,
) -> Result<String, String> {
    let request = resolve_request(&connection.owner, &connection.connection_id);
    let resolved = grants.resolve_credential(request).await;
    let resolved = resolved.map_err(|status| format!("it is active and cannot be resolved: {status:?}"))?;
    match resolved.into_inner().credential.and_then(|credential| credential.kind) {
        Some(v1::credential::Kind::Oauth2(token)) => Ok(token.access_token),
        _ => Err("there is no token".to_owned()),
    }
}

/// How many events say that a connection needs its owner, by its id.
fn lost_events(rig: &Rig) -> BTreeMap<String, usize> {
    let events = "SELECT replace(connection_id::text, '-', ''), count(*) FROM audit_events
                  WHERE kind = 'REAUTHORIZATION_REQUIRED' GROUP BY 1";
    let text = rig.oauth.world.sql(events);
    let pairs = text.lines().filter_map(|line| line.split_once('|'));
    pairs.map(|(id, count)| (id.to_owned(), count.parse().unwrap())).collect()
}

/// Whether an active connection is one: its grant lives, and what is released is good.
async fn is_good(
    class: &Class,
    made: &Made,
    now: &v1::Connection,
    grants: &mut GrantServiceClient<Channel>,
) -> Result<(), String> {
    if !class.provider.grant_is_alive(&made.account) {
        return Err("it is active, and its grant is dead at the provider".to_owned());
    }
    let refresh = now.refresh.clone().unwrap_or_default();
    if !refresh.error.is_empty() || refresh.failures != 0 {
        return Err(format!("it failed last: {refresh:?}"));
    }
    let token = resolve(grants, now).await?;
    let good = class.provider.account_of(&token).as_ref() == Some(&made.account);
    good.then_some(()).ok_or_else(|| "its token is not good at the provider".to_owned())
}

impl History<'_> {
    fn caller(&self, call: &Refreshed) -> &Caller {
        self.class.callers.get(&call.number).unwrap_or_else(|| panic!("nobody noted call {}", call.number))
    }

    // === A token that was replaced is not shown outside of its class's rule ===

    fn check_reuse(&self, wrong: &mut Vec<String>) {
        let id = self.class.id;
        let replays = self.class.provider.counts().replays;
        if self.class.reuse != Reuse::None && replays > 0 {
            wrong.push(format!("{id}: {replays} refresh tokens came again when they must not"));
        }
        for call in &self.calls {
            let Some(superseded) = call.superseded else { continue };
            let verdict = match self.class.reuse {
                Reuse::Static => Err("it is never replaced".to_owned()),
                Reuse::Window(_) | Reuse::UntilUsed(_) if superseded.replacement_used => {
                    Err("its replacement had been used".to_owned())
                }
                Reuse::Window(length) | Reuse::UntilUsed(length) => {
                    let in_time = call.at <= superseded.since + length;
                    in_time.then_some(()).ok_or_else(|| "its time was over".to_owned())
                }
                Reuse::None => self.may_be_tried_once_more(call),
            };
            if let Err(why) = verdict {
                let shown =
                    format!("{id}: call {} showed {}, which was replaced", call.number, call.presented);
                wrong.push(format!("{shown}: {why}\n{}", self.of_grant(call.grant)));
            }
        }
    }

    /// Whether a token may be shown that was replaced and is dead: its replacement never came, and there is
    /// nothing left to lose.
    fn may_be_tried_once_more(&self, call: &Refreshed) -> Result<(), String> {
        let ended = self.end_of_access(&call.presented).expect("somebody issued it");
        if call.at < ended {
            return Err(format!("the access token was good until {ended}"));
        }
        let first = self.replacing(&call.presented).expect("somebody replaced it");
        self.may_have_been_lost(first, call.at)
    }

    /// When the access token ended, at the earliest, that came with a refresh token.
    fn end_of_access(&self, refresh_id: &str) -> Option<Timestamp> {
        let made = self.class.made.values().find(|made| made.first.0 == refresh_id);
        let issued = || {
            let issues = |call: &&Refreshed| match &call.outcome {
                Outcome::Issued { refresh, .. } => refresh.as_deref() == Some(refresh_id),
                _ => false,
            };
            self.calls.iter().find(issues).map(|call| call.at + SHORT)
        };
        made.map(|made| made.first.1).or_else(issued)
    }

    /// The call that replaced a refresh token.
    fn replacing(&self, refresh_id: &str) -> Option<&Refreshed> {
        self.calls
            .iter()
            .find(|call| call.presented == refresh_id && matches!(call.outcome, Outcome::Issued { .. }))
    }

    /// Whether an answer may have been lost at some moment: it never came, it came later than that, or its
    /// process died with it before it could keep it.
    fn may_have_been_lost(&self, call: &Refreshed, at: Timestamp) -> Result<(), String> {
        let Some(answered) = call.answered else { return Ok(()) };
        let process = &self.caller(call).process;
        if self.class.durable.contains(&call.number) {
            return Err(format!("the answer of call {} was durable", call.number));
        }
        if answered > at || self.ledger.stood_still(process, call.at, at) {
            return Ok(());
        }
        match self.ledger.deaths.get(process) {
            Some(death) if *death <= at && *death - answered <= TIME_TO_KEEP => Ok(()),
            Some(death) => {
                Err(format!("call {} was answered {answered}, and {process} died {death}", call.number))
            }
            None => Err(format!("call {} was answered {answered}, and {process} lives", call.number)),
        }
    }

    // === At most one at a time ===

    fn check_overlaps(&self, wrong: &mut Vec<String>) {
        let mut before: BTreeMap<usize, Vec<&Refreshed>> = BTreeMap::new();
        for call in &self.calls {
            let earlier = before.entry(call.grant).or_default();
            for other in earlier.iter().filter(|other| self.overlaps(other, call)) {
                let pair = format!("calls {} and {}", other.number, call.number);
                let id = self.class.id;
                wrong.push(format!("{id}: {pair} were at the same time\n{}", self.of_grant(call.grant)));
            }
            earlier.push(call);
        }
    }

    /// Whether an earlier call was still waited for when a later one came, by somebody who was not dead and
    /// did not stand still.
    fn overlaps(&self, earlier: &Refreshed, later: &Refreshed) -> bool {
        let caller = self.caller(earlier);
        let broken = matches!(caller.fault, Some((_, Effect::Reset | Effect::Cut(_))));
        let at_once = match earlier.answered {
            Some(answered) => answered > later.at,
            None => !broken && later.at - earlier.at < WAITED_FOR,
        };
        let until = earlier.answered.unwrap_or(later.at);
        let excused = self.ledger.deaths.get(&caller.process).is_some_and(|death| *death <= later.at)
            || self.ledger.stood_still(&caller.process, earlier.at, until);
        at_once && !excused
    }

    // === What is lost ===

    /// Whether a connection may be lost.
    fn may_be_lost(&self, grant: usize, now: &v1::Connection) -> Result<(), String> {
        let (state, reason) = (now.state(), now.state_reason.as_str());
        // The answer that was waited for came after its token had been tried once more: then the refusal of
        // the new token looks like one that has nothing to do with it.
        let refused_before = || {
            let refused = Outcome::Refused("invalid_grant");
            let mut calls = self.calls.iter().filter(|call| call.grant == grant);
            calls.any(|call| call.superseded.is_some() && call.outcome == refused)
        };
        let named = reason == "LOST_ROTATION" || reason == "REVOKED" && refused_before();
        if state != v1::ConnectionState::ReauthorizationRequired || !named {
            return Err(format!("its state is {state:?}, {reason}"));
        }
        if self.class.reuse != Reuse::None {
            return Err("it is lost, and need not be".to_owned());
        }
        if self.class.provider.grant_is_alive(&self.class.made[&grant].account) {
            return Err("it is lost, and its grant lives".to_owned());
        }
        let mut calls = self.calls.iter().filter(|call| call.grant == grant).rev();
        let last = calls.find(|call| matches!(call.outcome, Outcome::Issued { .. }));
        let Some(last) = last else { return Err("it was never refreshed".to_owned()) };
        let again = self.calls.iter().find(|call| call.grant == grant && call.number > last.number);
        self.may_have_been_lost(last, again.map_or(self.end, |call| call.at))
    }

    /// The calls of a grant, for a failure: without any secret.
    fn of_grant(&self, grant: usize) -> String {
        let calls: Vec<&Refreshed> = self.calls.iter().filter(|call| call.grant == grant).collect();
        let line = |call: &&Refreshed| {
            let Caller { process, fault } = self.caller(call);
            let death = self.ledger.deaths.get(process);
            let death = death.map_or_else(String::new, |death| format!(", died {}", death.time()));
            let answered = call.answered.map(Timestamp::time);
            format!(
                "    call {} at {} shows {}, superseded {:?}: {:?}, answered {answered:?}, spoilt {fault:?}, \
                 by {process}{death}\n",
                call.number,
                call.at.time(),
                call.presented,
                call.superseded.map(|it| (it.since.time(), it.replacement_used)),
                call.outcome,
            )
        };
        calls[calls.len().saturating_sub(12)..].iter().map(line).collect()
    }

    fn line(&self, lost: usize, revoked: usize) -> String {
        let counts = self.class.provider.counts();
        let goes_on = |call: &&Refreshed| {
            call.answered.is_none()
                && self.calls.iter().any(|later| {
                    later.grant == call.grant
                        && later.number > call.number
                        && matches!(later.outcome, Outcome::Issued { .. })
                })
        };
        let recovered = self.calls.iter().filter(goes_on).count();
        format!(
            "{:9} {:4} kills aimed at it, {:6} refreshes, {recovered:4} recovered, {lost:4} lost of {}, \
             {revoked} of them told as revoked, {} replays, at most {} at once",
            self.class.id,
            self.class.kills,
            counts.refreshes,
            self.class.made.len(),
            counts.replays,
            counts.most_refreshes_at_once,
        )
    }
}

/// A server that is not ours tells less: how many grants it ended because a token came again.
async fn check_oidc(rig: &mut Rig, findings: &mut Findings) {
    let events = lost_events(rig);
    let world = &rig.oauth.world;
    let server = &rig.fleet.serving().expect("a process that serves").server;
    let mut connections = ConnectionServiceClient::new(world.channel_to(server, "console"));
    let mut grants = GrantServiceClient::new(world.channel_to(server, "gateway"));
    let mut lost = 0;
    for id in &rig.oidc.made {
        let now = get(&mut connections, id).await;
        if now.state() == v1::ConnectionState::Active {
            let good = match resolve(&mut grants, &now).await {
                Ok(token) => {
                    rig.oidc.takes(&token).await.then_some(()).ok_or("its token is not good".to_owned())
                }
                Err(why) => Err(why),
            };
            findings.wrong.extend(good.err().map(|why| format!("oidc {id}: {why}")));
            continue;
        }
        lost += 1;
        let told = (now.state(), now.state_reason.as_str(), events.get(&uuid(id)));
        let needs_owner = v1::ConnectionState::ReauthorizationRequired;
        if !matches!(told, (state, "LOST_ROTATION" | "REVOKED", Some(1)) if state == needs_owner) {
            findings.wrong.push(format!("oidc {id} is lost, and this is said about it: {told:?}"));
        }
    }
    let ended = rig.oidc.ended();
    if ended != lost {
        findings.wrong.push(format!("oidc: {lost} connections are lost, and {ended} grants were ended"));
    }
    // Each of them took a lost answer, or a process that died in a call.
    let occasions = u64::try_from(rig.oidc.lost_answers + rig.fleet.kills).unwrap();
    if lost > occasions {
        findings.wrong.push(format!("oidc: {lost} connections are lost, on {occasions} occasions"));
    }
    findings.report.push(format!(
        "oidc      {:6} calls, {lost} lost of {}, {} answers lost on purpose",
        rig.oidc.asked(),
        rig.oidc.made.len(),
        rig.oidc.lost_answers,
    ));
}
