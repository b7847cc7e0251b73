//! The pages in a real browser: what an owner sees, and what becomes of their flow when they do what people do.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use keyholder_proto::v1;
use keyholder_testkit::provider::Consent;
use serde::Deserialize;
use serde_json::{Value, json};

use super::world::{OAuth, Setup};
use crate::harness::root;

/// Chromium, driven by `tests/peers/browser/driver.mjs`.
struct Chromium {
    driver: Child,
    orders: ChildStdin,
    answers: std::io::Lines<BufReader<ChildStdout>>,
}

/// A tab, by profile and number. Profiles share nothing.
type Tab = (&'static str, u8);

/// What a tab shows.
#[derive(Debug, Deserialize)]
struct Shown {
    status: u16,
    url: String,
    title: String,
    heading: String,
    text: String,
    /// Whether it must be moved sideways to be read.
    overflows: bool,
}

impl Chromium {
    fn start() -> Self {
        let peers = root().join("target/tools/peers");
        let packages = peers.join("browser/installed.json");
        assert!(packages.exists(), "run deploy/tools/setup peers chromium first");
        let mut driver = Command::new(peers.join("bin/node"))
            .arg(root().join("tests/peers/browser/driver.mjs"))
            .env("KEYHOLDER_PEERS", peers)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = driver.stdin.take().unwrap();
        let answers = BufReader::new(driver.stdout.take().unwrap()).lines();
        Self { driver, orders, answers }
    }

    fn order(&mut self, (profile, tab): Tab, mut order: Value) -> Value {
        order["profile"] = profile.into();
        order["tab"] = tab.into();
        writeln!(self.orders, "{order}").unwrap();
        let answer = self.answers.next().expect("the driver is there").unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer.get("error"), None, "{order}");
        answer
    }

    fn shown(&mut self, tab: Tab, order: Value) -> Shown {
        serde_json::from_value(self.order(tab, order)).unwrap()
    }

    fn go(&mut self, tab: Tab, url: &str) -> Shown {
        self.shown(tab, json!({ "order": "go", "url": url }))
    }

    fn press(&mut self, tab: Tab, button: &str) -> Shown {
        self.shown(tab, json!({ "order": "press", "button": button }))
    }

    /// Chooses an account at the provider, and allows.
    fn allow(&mut self, tab: Tab, account: &str) -> Shown {
        let choose = json!({ "Account": account });
        self.shown(tab, json!({ "order": "press", "button": "Allow", "choose": choose }))
    }

    fn back(&mut self, tab: Tab) -> Shown {
        self.shown(tab, json!({ "order": "back" }))
    }

    fn reload(&mut self, tab: Tab) -> Shown {
        self.shown(tab, json!({ "order": "reload" }))
    }

    /// Takes pictures of what a tab shows, light, dark and on a phone, to be looked at in `target/pages`.
    fn shoot(&mut self, tab: Tab, name: &str) {
        let folder = root().join("target/pages");
        std::fs::create_dir_all(&folder).unwrap();
        for (suffix, width, height, dark) in
            [("light", 1280, 800, false), ("dark", 1280, 800, true), ("phone", 360, 740, false)]
        {
            let file: PathBuf = folder.join(format!("{name}-{suffix}.png"));
            let order =
                json!({ "order": "shoot", "file": file, "width": width, "height": height, "dark": dark });
            assert!(!self.shown(tab, order).overflows, "{name} is wider than a {suffix} window");
        }
    }

    /// That nothing was loaded from elsewhere, that the policy was not offended, that no error came up.
    #[track_caller]
    fn assert_no_problems(&mut self) {
        let answer = self.order(("", 0), json!({ "order": "problems" }));
        assert_eq!(answer["problems"], json!([]));
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        self.driver.kill().ok();
        self.driver.wait().ok();
    }
}

/// The provider's page is on `localhost`, and ours on 127.0.0.1: two sites, as in life.
const TWO_SITES: &str = "id: demo
name: Demo
documentation_url: https://example.com/docs
facts_checked: 2026-11-26
base_url: HERE
auth_methods:
  - method: oauth2_code
    title: Sign in
    test: { request: GET /userinfo, good: [200], dead: [401], account: { id: /sub, name: /name } }
oauth2:
  issuer: HERE
  sends_iss: true
  client_authentication: basic
  authorize: { url: LOCALHOST/authorize }
  token: { url: HERE/token }
scopes:
  - { name: read, title: Read }
  - { name: write, title: Write }
default_scopes: [read, write]
";

/// A world whose provider asks people.
fn start() -> OAuth {
    let oauth = OAuth::start_with(&Setup { demo: TWO_SITES, ..Setup::default() });
    oauth.provider.behave(|manners| manners.consent = Consent::Ask);
    oauth
}

/// That a tab shows a page of ours, whose title is its heading.
fn assert_page(shown: &Shown, status: u16, title: &str) {
    assert_eq!(
        (shown.status, shown.title.as_str(), shown.heading.as_str()),
        (status, title, title),
        "{shown:?}"
    );
}

/// A server of one page, as long as the test runs. Returns its address.
fn serve(page: &'static str, policy: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).ok();
            let length = page.len();
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {length}\r\n\
                 Connection: close\r\nContent-Security-Policy: {policy}\r\n\r\n{page}"
            )
            .ok();
        }
    });
    url
}

#[test]
fn a_page_that_loads_scripts_or_fails_is_noticed() {
    let mut chromium = Chromium::start();
    let shown = [
        ("<h1>a</h1><script>1</script>", "default-src 'none'", "Content Security Policy"),
        (
            "<h1>b</h1><img src='https://example.com/'>",
            "img-src *",
            "a foreign request: https://example.com/",
        ),
        ("<h1>c</h1><link rel=stylesheet href='/x.css'>", "style-src 'self'", "a stylesheet: "),
        (
            "<h1>d</h1><script>throw new Error('oh')</script>",
            "script-src 'unsafe-inline'",
            "an error: Error: oh",
        ),
    ];
    for (number, (page, policy, expected)) in (1..).zip(shown) {
        let tab = ("ada", number);
        chromium.go(tab, &serve(page, policy));
        let problems = chromium.order(tab, json!({ "order": "problems" }))["problems"].to_string();
        assert!(problems.contains(expected), "{page}: {problems}");
    }
}

const CONNECTED: &str = "Demo is connected";
const USED: &str = "This link was used already";

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_consents_and_sees_whose_account_is_connected() {
    let (oauth, mut chromium, tab) = (start(), Chromium::start(), ("ada", 1));
    let begun = oauth.begin("user:ada").await;
    let asked = chromium.go(tab, &begun.authorization_url);
    assert!(
        asked.url.starts_with("http://localhost:") && asked.text.contains("keyholder wants"),
        "{asked:?}"
    );
    let shown = chromium.allow(tab, "ada");
    assert_page(&shown, 200, CONNECTED);
    assert!(shown.text.contains("Ada Lovelace"), "{shown:?}");
    assert_eq!(oauth.authorization(&begun).await.state(), v1::AuthorizationState::Completed);
    chromium.shoot(tab, "connected");
    chromium.assert_no_problems();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_denies_and_reads_that_nothing_was_changed() {
    let (oauth, mut chromium, tab) = (start(), Chromium::start(), ("ada", 1));
    let begun = oauth.begin("user:ada").await;
    chromium.go(tab, &begun.authorization_url);
    assert_page(&chromium.press(tab, "Deny"), 200, "Access was not given");
    assert_eq!(oauth.authorization(&begun).await.failure, "ACCESS_DENIED");
    chromium.shoot(tab, "denied");
    chromium.assert_no_problems();
}

#[tokio::test(flavor = "multi_thread")]
async fn going_back_after_the_end_and_allowing_again_changes_nothing() {
    let (oauth, mut chromium, tab) = (start(), Chromium::start(), ("ada", 1));
    let begun = oauth.begin("user:ada").await;
    chromium.go(tab, &begun.authorization_url);
    chromium.allow(tab, "ada");
    let made = oauth.connection(&oauth.authorization(&begun).await.connection_id).await;
    assert_page(&chromium.reload(tab), 200, CONNECTED);
    let asked = chromium.back(tab);
    assert!(asked.url.starts_with("http://localhost:"), "{asked:?}");
    // A page that was answered must be asked for anew.
    chromium.reload(tab);
    let shown = chromium.allow(tab, "bob");
    assert_page(&shown, 200, CONNECTED);
    assert!(shown.text.contains("Ada Lovelace") && !shown.text.contains("Bob"), "{shown:?}");
    let other = ("somebody", 1);
    let shown = chromium.go(other, &begun.authorization_url);
    assert_page(&shown, 410, USED);
    assert!(!shown.text.contains("Ada"), "{shown:?}");
    assert_eq!(oauth.connection(&made.connection_id).await, made);
    assert_eq!(oauth.provider.counts().token_calls, 1);
    chromium.shoot(other, "used");
    chromium.assert_no_problems();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_flows_in_two_tabs_do_not_disturb_each_other() {
    let (oauth, mut chromium) = (start(), Chromium::start());
    let (first, second) = (("ada", 1), ("ada", 2));
    let one = oauth.begin("user:ada").await;
    let two = oauth.begin("user:ada").await;
    chromium.go(first, &one.authorization_url);
    chromium.go(second, &two.authorization_url);
    let shown = chromium.allow(second, "bob");
    assert_page(&shown, 200, CONNECTED);
    assert!(shown.text.contains("Bob Kahn"), "{shown:?}");
    let shown = chromium.allow(first, "ada");
    assert_page(&shown, 200, CONNECTED);
    assert!(shown.text.contains("Ada Lovelace"), "{shown:?}");
    let ids = [oauth.authorization(&one).await.connection_id, oauth.authorization(&two).await.connection_id];
    assert_eq!(oauth.connection(&ids[0]).await.account.unwrap().id, "user-ada");
    assert_eq!(oauth.connection(&ids[1]).await.account.unwrap().id, "user-bob");
    chromium.assert_no_problems();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_flow_in_two_tabs_of_one_browser_is_finished_in_either() {
    let (oauth, mut chromium) = (start(), Chromium::start());
    let (first, second) = (("ada", 1), ("ada", 2));
    let begun = oauth.begin("user:ada").await;
    chromium.go(first, &begun.authorization_url);
    chromium.go(second, &begun.authorization_url);
    assert_page(&chromium.allow(first, "ada"), 200, CONNECTED);
    let shown = chromium.allow(second, "bob");
    assert_page(&shown, 200, CONNECTED);
    assert!(shown.text.contains("Ada Lovelace"), "the first one counts: {shown:?}");
    assert_eq!(oauth.provider.counts().token_calls, 1);
    chromium.assert_no_problems();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_opened_in_another_browser_is_finished_there_and_nowhere_else() {
    let (oauth, mut chromium) = (start(), Chromium::start());
    let (here, there) = (("ada", 1), ("somebody", 1));
    let begun = oauth.begin("user:ada").await;
    chromium.go(here, &begun.authorization_url);
    chromium.go(there, &begun.authorization_url);
    assert_page(&chromium.allow(here, "ada"), 403, "This is not the browser you started in");
    chromium.shoot(here, "another-browser");
    assert_eq!(oauth.authorization(&begun).await.state(), v1::AuthorizationState::Pending);
    assert_eq!(oauth.provider.counts().token_calls, 0);
    assert_page(&chromium.allow(there, "ada"), 200, CONNECTED);
    // Whose account it was is not for the browser that did not finish.
    let shown = chromium.go(here, &begun.authorization_url);
    assert_page(&shown, 410, USED);
    assert!(!shown.text.contains("Ada"), "{shown:?}");
    chromium.assert_no_problems();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_has_expired_says_so_before_and_after_the_provider() {
    let (oauth, mut chromium) = (start(), Chromium::start());
    let (early, late) = (("ada", 1), ("ada", 2));
    let begun = oauth.begin("user:ada").await;
    chromium.go(early, &begun.authorization_url);
    oauth.world.sql("UPDATE authorizations SET expire_time = create_time + interval '1 millisecond'");
    assert_page(&chromium.go(late, &begun.authorization_url), 410, "This link has expired");
    chromium.shoot(late, "expired");
    assert_page(&chromium.allow(early, "ada"), 410, "This link has expired");
    assert_eq!(oauth.provider.counts().token_calls, 0);
    chromium.assert_no_problems();
}
