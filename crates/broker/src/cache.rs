//! What is kept in memory between calls. Nothing here is trusted: a credential leaves only after the database
//! has confirmed, in the statement that records the release, the generations that were decided on.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use fail::fail_point;
use keyholder_domain::{Grant, OrganizationId, Principal};
use keyholder_store::{Candidate, Found, StoreError, Target};
use keyholder_vault::{DataKey, Envelope, OpenError};
use quick_cache::sync::DefaultLifecycle;
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use crate::Broker;

/// The most bytes that found connections may take.
const FOUND_BYTES: u64 = 64 * 1024 * 1024;

/// Into how many parts they are divided, each with a lock and a share of the bytes of its own. What is larger than a share is
/// not kept: it is looked up each time.
const SHARDS: usize = 2;

/// About how many found connections there are, and the most data keys there are, roughly.
const FOUND: usize = 8_192;
const DATA_KEYS: usize = 10_000;

/// How long anything is kept at most, and how often it is looked: what was erased in the database is not in memory for longer.
const LIFETIME: Duration = Duration::from_secs(15 * 60);
const EVERY: Duration = Duration::from_secs(30);

/// The question that was asked of the database.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) organization_id: OrganizationId,
    pub(crate) actor: Principal,
    pub(crate) target: Target,
}

/// What was found for a question, with what is sealed in it, which is read when it is needed first.
#[derive(Debug)]
pub(crate) struct Answer {
    found: Found,
    /// For each candidate.
    sealed: Vec<OnceLock<Result<Envelope, OpenError>>>,
}

impl Answer {
    pub(crate) fn of(found: Found) -> Self {
        let sealed = found.candidates.iter().map(|_| OnceLock::new()).collect();
        Self { found, sealed }
    }

    /// The credential of one of the candidates.
    pub(crate) fn sealed(&self, candidate: &Candidate) -> Result<&Envelope, OpenError> {
        let place = self.found.candidates.iter().position(|one| std::ptr::eq(one, candidate));
        let sealed = place.and_then(|place| self.sealed.get(place)).ok_or(OpenError::Malformed)?;
        let text = candidate.stored.sealed.as_ref().map_or("", |sealed| &sealed.credential);
        sealed.get_or_init(|| Envelope::parse(text)).as_ref().map_err(OpenError::clone)
    }
}

impl Deref for Answer {
    type Target = Found;

    fn deref(&self) -> &Found {
        &self.found
    }
}

/// What was found, sealed, by the question that was asked.
#[derive(Debug)]
pub(crate) struct Cache {
    found: quick_cache::sync::Cache<Key, Kept, Weight>,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// What came of a lookup, and when. An error is there for a moment, for those who waited for the lookup.
#[derive(Debug, Clone)]
struct Kept {
    result: Result<Arc<Answer>, StoreError>,
    since: Instant,
}

#[derive(Debug, Clone)]
struct Weight;

impl Weighter<Key, Kept> for Weight {
    fn weight(&self, _: &Key, kept: &Kept) -> u64 {
        kept.result.as_ref().map_or(1, |found| weight(found) as u64)
    }
}

impl Cache {
    pub(crate) fn new() -> Self {
        let options = OptionsBuilder::new()
            .estimated_items_capacity(FOUND)
            .weight_capacity(FOUND_BYTES)
            .shards(SHARDS)
            .build()
            .expect("all that is needed is given");
        let (hashes, lifecycle) = (DefaultHashBuilder::default(), DefaultLifecycle::default());
        let found = quick_cache::sync::Cache::with_options(options, Weight, hashes, lifecycle);
        Self { found, hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }

    /// What is kept.
    pub(crate) fn kept(&self, key: &Key) -> Option<Arc<Answer>> {
        // The comparison must look everything up.
        let kept = if cfg!(feature = "plain") { None } else { self.found.get(key) };
        let found = kept.and_then(|kept| kept.result.ok());
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// What is kept by now, or is being looked up for somebody else, or is looked up now; and whether it is the last of
    /// these, so that it is no older than the question.
    pub(crate) async fn kept_or(
        &self,
        key: &Key,
        look_up: impl Future<Output = Result<Answer, StoreError>>,
    ) -> Result<(Arc<Answer>, bool), StoreError> {
        if cfg!(feature = "plain") {
            return Ok((Arc::new(look_up.await?), true));
        }
        let guard = match self.found.get_value_or_guard_async(key).await {
            Ok(kept) => return kept.result.map(|found| (found, false)),
            Err(guard) => guard,
        };
        let result = look_up.await.map(Arc::new);
        // What was put there meanwhile, by somebody who did not wait, stays.
        guard.insert(Kept { result: result.clone(), since: Instant::now() }).ok();
        if result.is_err() {
            self.found.remove_if(key, |kept| kept.result.is_err());
        }
        result.map(|found| (found, true))
    }

    pub(crate) fn insert(&self, key: Key, found: Arc<Answer>) {
        self.found.insert(key, Kept { result: Ok(found), since: Instant::now() });
    }

    /// Forgets what was found, unless it was found anew meanwhile.
    pub(crate) fn forget(&self, key: &Key, found: &Arc<Answer>) {
        self.found.remove_if(key, |kept| kept.result.as_ref().is_ok_and(|kept| Arc::ptr_eq(kept, found)));
    }

    /// Forgets what has been kept for long enough.
    fn forget_old(&self, now: Instant) {
        self.found.retain(|_, kept| now.duration_since(kept.since) < LIFETIME - EVERY);
    }

    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed))
    }
}

impl Broker {
    /// Sees to it that nothing is kept for too long, for ever.
    pub async fn tend_caches(&self) {
        loop {
            fail_point!("caches");
            tokio::time::sleep(EVERY).await;
            self.0.found.forget_old(Instant::now());
            self.0.data_keys.forget_old(Instant::now());
        }
    }
}

/// Roughly the bytes that an entry takes; the fixed part stands for ids, keys and allocations.
fn weight(found: &Answer) -> usize {
    let candidate = |candidate: &Candidate| {
        let connection = &candidate.stored.connection;
        // Once as text, and once as what it says.
        let sealed = candidate.stored.sealed.as_ref().map_or(0, |sealed| 2 * sealed.credential.len());
        let config: usize = connection.config.iter().map(|(key, value)| key.len() + value.len()).sum();
        let scopes: usize = connection.scopes.iter().map(str::len).sum();
        let labels: usize =
            connection.labels.as_map().iter().map(|(key, value)| key.len() + value.len() + 128).sum();
        let grant = |grant: &Grant| {
            let scopes: usize = grant.scopes.iter().map(|scope| scope.len() + 48).sum();
            let workloads: usize = grant.workloads.iter().map(|pattern| pattern.as_str().len() + 32).sum();
            1_024 + scopes + workloads
        };
        4_096 + sealed + config + scopes + labels + candidate.grants.iter().map(grant).sum::<usize>()
    };
    2_048 + found.candidates.iter().map(candidate).sum::<usize>()
}

/// Opened data keys, for a while.
#[derive(Debug)]
pub(crate) struct DataKeyCache(quick_cache::sync::Cache<String, Opened>);

/// A data key, whose it is, and when it was opened.
#[derive(Debug, Clone)]
struct Opened {
    owner: OrganizationId,
    key: Arc<DataKey>,
    since: Instant,
}

impl DataKeyCache {
    pub(crate) fn new() -> Self {
        Self(quick_cache::sync::Cache::new(DATA_KEYS))
    }

    pub(crate) fn get(&self, organization_id: &OrganizationId, data_key_id: &str) -> Option<Arc<DataKey>> {
        // A row that names another organization's key must not open it by what is kept.
        let opened = self.0.get(data_key_id)?;
        (opened.owner == *organization_id).then_some(opened.key)
    }

    pub(crate) fn insert(&self, organization_id: &OrganizationId, key: Arc<DataKey>) {
        let (owner, since) = (organization_id.clone(), Instant::now());
        self.0.insert(key.id().as_str().to_owned(), Opened { owner, key, since });
    }

    fn forget_old(&self, now: Instant) {
        self.0.retain(|_, opened| now.duration_since(opened.since) < LIFETIME - EVERY);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use keyholder_domain::{
        Account, AuthMethod, Connection, ConnectionId, ConnectionState, Generation, GrantId, GrantTarget,
        Labels, ProviderId, Scopes, Text, Timestamp, WorkloadId, WorkloadPattern,
    };
    use keyholder_store::{Sealed, StoredConnection};

    use super::*;

    /// A text that so many bytes are sealed in, or a few more.
    fn sealed(bytes: usize) -> String {
        format!("enc:v1:dk_0:{}", "A".repeat((bytes / 3 + 10) * 4))
    }

    fn candidate(bytes: usize) -> Candidate {
        let now = Timestamp::UNIX_EPOCH;
        let connection = Connection {
            id: ConnectionId::new(now, [1; 10]),
            organization_id: OrganizationId::parse("acme").unwrap(),
            owner: Principal::parse("user:ada").unwrap(),
            provider_id: ProviderId::parse("openai").unwrap(),
            auth_method: AuthMethod::ApiKey,
            display_name: Text::default(),
            account: Account::default(),
            scopes: Scopes::default(),
            state: ConnectionState::Active,
            state_reason: Text::default(),
            credential_summary: BTreeMap::new(),
            config: BTreeMap::new(),
            labels: Labels::default(),
            last_test: None,
            tokens: None,
            generation: Generation::FIRST,
            create_time: now,
            update_time: now,
        };
        let sealed = Sealed {
            credential: sealed(bytes),
            generation: Generation::FIRST,
            fingerprint: String::new(),
            renewal: None,
        };
        let stored = StoredConnection { connection, sealed: Some(sealed), change: 1 };
        Candidate { stored, version: uuid::Uuid::nil(), data_key: None, grants: Vec::new() }
    }

    fn grant() -> Grant {
        let now = Timestamp::UNIX_EPOCH;
        Grant {
            id: GrantId::new(now, [2; 10]),
            organization_id: OrganizationId::parse("acme").unwrap(),
            grantee: Principal::parse("agent:roadie").unwrap(),
            target: GrantTarget::Connection(ConnectionId::new(now, [1; 10])),
            scopes: Scopes::default(),
            workloads: Vec::new(),
            expire_time: None,
            reason: Text::default(),
            created_by: WorkloadId::parse("spiffe://td/console").unwrap(),
            revoke_time: None,
            last_used_time: None,
            generation: Generation::FIRST,
            create_time: now,
        }
    }

    fn key(actor: usize) -> Key {
        Key {
            organization_id: OrganizationId::parse("acme").unwrap(),
            actor: Principal::parse(&format!("user:{actor}")).unwrap(),
            target: Target::Connection(ConnectionId::new(Timestamp::UNIX_EPOCH, [1; 10])),
        }
    }

    fn found(candidates: Vec<Candidate>) -> Answer {
        Answer::of(Found { candidates, provider_generation: None })
    }

    #[test]
    fn an_entry_weighs_at_least_the_bytes_that_a_caller_can_make_long() {
        let base = weight(&found(vec![candidate(0)]));
        let heavier = |change: &dyn Fn(&mut Candidate)| {
            let mut candidate = candidate(0);
            change(&mut candidate);
            weight(&found(vec![candidate])) - base
        };
        let long = "x".repeat(200);
        assert!(heavier(&|it| it.stored.sealed.as_mut().unwrap().credential = sealed(300)) >= 2 * 300);
        assert!(heavier(&|it| drop(it.stored.connection.config.insert("url".into(), long.clone()))) >= 203);
        let scopes = Scopes::parse(std::slice::from_ref(&long)).unwrap();
        assert!(heavier(&|it| it.stored.connection.scopes = scopes.clone()) >= 200);
        let labels = Labels::parse([("k", "v".repeat(60).as_str())]).unwrap();
        assert!(heavier(&|it| it.stored.connection.labels = labels.clone()) >= 61);
        assert!(heavier(&|it| it.grants.push(grant())) >= size_of::<Grant>());
        let pattern = WorkloadPattern::parse(&format!("spiffe://td/{}", "x".repeat(100))).unwrap();
        let scoped = || Grant { scopes: scopes.clone(), workloads: vec![pattern.clone()], ..grant() };
        assert!(heavier(&|it| it.grants.push(scoped())) >= size_of::<Grant>() + 300);
        assert!(weight(&found(vec![candidate(0), candidate(0)])) >= base + size_of::<Candidate>());
        assert!(weight(&found(Vec::new())) >= size_of::<Key>() + size_of::<Found>());
    }

    #[test]
    fn what_is_found_takes_no_more_than_its_bytes() {
        let cache = Cache::new();
        for actor in 0..100 {
            cache.insert(key(actor), Arc::new(found(vec![candidate(1 << 20)])));
        }
        assert!(cache.found.weight() <= FOUND_BYTES, "{} bytes", cache.found.weight());
        assert!((1..64).contains(&cache.found.len()), "{} entries", cache.found.len());
    }

    #[test]
    fn what_is_sealed_belongs_to_its_candidate() {
        let texts = [sealed(30), "enc:v1:dk_0:AAAA".to_owned(), sealed(60).replace("dk_0", "dk_1")];
        let of = |text: &String| {
            let mut candidate = candidate(0);
            candidate.stored.sealed.as_mut().unwrap().credential.clone_from(text);
            candidate
        };
        let found = found(texts.iter().map(of).collect());
        for (candidate, text) in found.candidates.iter().zip(&texts) {
            assert_eq!(found.sealed(candidate).cloned(), Envelope::parse(text));
        }
        assert_eq!(found.sealed(&candidate(0)), Err(OpenError::Malformed), "of another question");
    }

    #[test]
    fn a_hundred_connections_with_the_largest_tokens_are_kept() {
        let cache = Cache::new();
        let largest = found((0..100).map(|_| candidate(64 * 1024)).collect());
        cache.insert(key(1), Arc::new(largest));
        assert!(cache.kept(&key(1)).is_some());
    }

    #[test]
    fn nothing_is_kept_longer_than_a_quarter_of_an_hour() {
        let (cache, data_keys) = (Cache::new(), DataKeyCache::new());
        let acme = OrganizationId::parse("acme").unwrap();
        let data_key = Arc::new(DataKey::generate(Timestamp::UNIX_EPOCH));
        cache.insert(key(1), Arc::new(found(Vec::new())));
        data_keys.insert(&acme, Arc::clone(&data_key));
        let kept = |seconds| {
            let now = Instant::now() + Duration::from_secs(seconds);
            cache.forget_old(now);
            data_keys.forget_old(now);
            (cache.kept(&key(1)).is_some(), data_keys.get(&acme, data_key.id().as_str()).is_some())
        };
        let last = LIFETIME.as_secs() - EVERY.as_secs();
        assert_eq!(kept(last - 5), (true, true));
        // Looked at again only behind the quarter.
        assert_eq!(kept(last), (false, false));
    }

    #[test]
    fn an_opened_data_key_is_its_own_organizations() {
        let keys = DataKeyCache::new();
        let [acme, other] = ["acme", "other"].map(|id| OrganizationId::parse(id).unwrap());
        let key = Arc::new(DataKey::generate(Timestamp::UNIX_EPOCH));
        keys.insert(&acme, Arc::clone(&key));
        assert!(keys.get(&other, key.id().as_str()).is_none());
        assert!(keys.get(&acme, key.id().as_str()).is_some());
    }

    #[tokio::test]
    async fn what_is_forgotten_is_looked_up_again_and_counts_as_a_miss() {
        let cache = Cache::new();
        assert!(cache.kept(&key(1)).is_none());
        let look_up = async || cache.kept_or(&key(1), async { Ok(found(Vec::new())) }).await.unwrap();
        let (first, fresh) = look_up().await;
        assert!(fresh);
        let (second, fresh) = look_up().await;
        assert!(!fresh && Arc::ptr_eq(&first, &second));
        cache.forget(&key(1), &Arc::new(found(Vec::new())));
        assert!(cache.kept(&key(1)).is_some(), "what was found anew meanwhile is kept");
        cache.forget(&key(1), &first);
        assert!(cache.kept(&key(1)).is_none());
        assert!(look_up().await.1);
        assert_eq!(cache.counts(), (1, 2));
    }

    #[tokio::test]
    async fn those_who_ask_for_the_same_at_once_share_one_lookup() {
        let cache = Cache::new();
        let (answer, mut answers) = tokio::sync::mpsc::channel(1);
        let answers = tokio::sync::Mutex::new(&mut answers);
        let asked = AtomicU64::new(0);
        let ask = async || {
            let key = key(1);
            let look_up = async {
                asked.fetch_add(1, Ordering::Relaxed);
                answers.lock().await.recv().await.ok_or(StoreError::TimedOut)
            };
            cache.kept_or(&key, look_up).await
        };
        let (one, two, _) = tokio::join!(ask(), ask(), answer.send(found(Vec::new())));
        let (one, two) = (one.unwrap(), two.unwrap());
        assert!(Arc::ptr_eq(&one.0, &two.0) && one.1 != two.1, "one of them asked");
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_lookup_that_fails_is_kept_for_nobody_but_those_who_waited_for_it() {
        let cache = Cache::new();
        let (fail, failed) = tokio::sync::oneshot::channel::<()>();
        let failing = async { Err(failed.await.map_or(StoreError::Busy, |()| StoreError::TimedOut)) };
        let (key_of_both, unasked) = (key(1), async { panic!("it waits for the other one") });
        let both = (cache.kept_or(&key_of_both, failing), cache.kept_or(&key_of_both, unasked));
        let (one, two, _) = tokio::join!(both.0, both.1, async { fail.send(()) });
        assert!(matches!((one, two), (Err(StoreError::TimedOut), Err(StoreError::TimedOut))));
        let failed = cache.kept_or(&key(1), async { Err(StoreError::TimedOut) }).await;
        assert!(matches!(failed, Err(StoreError::TimedOut)));
        assert!(cache.kept_or(&key(1), async { Ok(found(Vec::new())) }).await.unwrap().1);
    }
}
