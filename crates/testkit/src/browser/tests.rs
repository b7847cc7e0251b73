use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use http::header::{COOKIE, LOCATION, SET_COOKIE};

use super::*;

/// What a path is answered with: its redirect, and its cookies.
fn route(path: &str) -> (u16, Option<&'static str>, &'static [&'static str]) {
    match path {
        "/start" => (302, Some("/set"), &["first=1; Path=/; HttpOnly; SameSite=Lax"]),
        "/set" => (303, Some("/end#part"), &["deep=1; Path=/deep", "second=2; Secure", "gone=1; Max-Age=0"]),
        "/forget" => (200, None, &["first=; Path=/; Max-Age=0"]),
        "/bad" => {
            (200, None, &["__Host-a=1; Path=/", "__Host-b=1; Secure; Path=/; Domain=localhost", "nonsense"])
        }
        "/same" => (307, Some("/end"), &[]),
        "/away" => (302, Some("http://192.0.2.1/"), &[]),
        "/loop" => (302, Some("/loop"), &[]),
        _ => (200, None, &[]),
    }
}

/// What came, line by line: method, path and cookies.
type Seen = Arc<Mutex<Vec<String>>>;

async fn answer(State(seen): State<Seen>, request: Request) -> Response {
    let cookies = request.headers().get(COOKIE).map(|cookies| cookies.to_str().unwrap()).unwrap_or("-");
    seen.lock().unwrap().push(format!("{} {} {cookies}", request.method(), request.uri()));
    let (status, location, cookies) = route(request.uri().path());
    let mut answer = Response::new(r#"<input type="hidden" name="a" value="&lt;1&gt;">"#.into());
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    answer.headers_mut().extend(location.map(|location| (LOCATION, location.parse().unwrap())));
    for cookie in cookies {
        answer.headers_mut().append(SET_COOKIE, cookie.parse().unwrap());
    }
    answer
}

async fn server() -> (String, Seen) {
    let seen = Seen::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(answer).with_state(Arc::clone(&seen));
    tokio::spawn(axum::serve(listener, router).into_future());
    (format!("http://{address}"), seen)
}

#[tokio::test]
async fn follows_redirects_and_keeps_cookies() {
    let (url, seen) = server().await;
    let mut browser = Browser::new();
    let page = browser.get(&format!("{url}/start")).await.unwrap();
    assert_eq!((page.status.unwrap().as_u16(), page.url.as_str()), (200, format!("{url}/end#part").as_str()));
    assert_eq!(page.visited.len(), 2);
    assert_eq!(page.field("a").as_deref(), Some("<1>"));
    browser.get(&format!("{url}/deep/er")).await.unwrap();
    browser.get(&format!("{url}/forget")).await.unwrap();
    browser.get(&format!("{url}/deeper")).await.unwrap();
    assert_eq!(
        *seen.lock().unwrap(),
        [
            "GET /start -",
            "GET /set first=1",
            "GET /end first=1; second=2",
            "GET /deep/er deep=1; first=1; second=2",
            "GET /forget first=1; second=2",
            "GET /deeper second=2",
        ]
    );
}

#[tokio::test]
async fn cookies_are_for_one_server_and_one_browser() {
    let (first, _) = server().await;
    let (second, seen) = server().await;
    let mut browser = Browser::new();
    browser.get(&format!("{first}/start")).await.unwrap();
    let cookie = browser.cookies(&first).remove(0);
    assert!(cookie.http_only && !cookie.secure && cookie.same_site.as_deref() == Some("Lax"));
    browser.get(&second).await.unwrap();
    Browser::new().get(&second).await.unwrap();
    assert_eq!(*seen.lock().unwrap(), ["GET / -", "GET / -"]);
    browser.clear();
    assert_eq!(browser.cookies(&first), []);
}

#[tokio::test]
async fn a_cookie_that_breaks_the_promise_of_its_name_is_not_kept() {
    let (url, _) = server().await;
    let mut browser = Browser::new();
    browser.get(&format!("{url}/bad")).await.unwrap();
    assert_eq!(browser.cookies(&url), []);
}

#[tokio::test]
async fn stops_before_a_url_and_after_one_step() {
    let (url, seen) = server().await;
    let page = Browser::new().get_until(&format!("{url}/start"), &format!("{url}/end")).await.unwrap();
    assert_eq!((page.status, page.url.as_str()), (None, format!("{url}/end#part").as_str()));
    assert_eq!(seen.lock().unwrap().len(), 2);
    let page = Browser::new().get_once(&format!("{url}/start")).await.unwrap();
    assert_eq!((page.status.unwrap().as_u16(), page.header("location")), (302, Some("/set")));
}

#[tokio::test]
async fn a_form_is_sent_again_only_where_the_redirect_says_so() {
    let (url, seen) = server().await;
    Browser::new().post(&format!("{url}/same"), &[("a", "b")]).await.unwrap();
    Browser::new().post(&format!("{url}/start"), &[("a", "b")]).await.unwrap();
    let methods: Vec<_> =
        seen.lock().unwrap().iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(methods, ["POST", "POST", "POST", "GET", "GET"]);
}

#[tokio::test]
async fn goes_nowhere_but_to_loopback_and_not_round_in_circles() {
    let (url, _) = server().await;
    for path in ["/away", "/loop"] {
        let error = Browser::new().get(&format!("{url}{path}")).await.unwrap_err();
        assert_eq!(matches!(error, BrowserError::Redirects), path == "/loop", "{error}");
    }
    for bad in ["https://127.0.0.1/", "http://example.com/", "http://localhost.example/", "nonsense"] {
        assert!(matches!(Browser::new().get(bad).await, Err(BrowserError::Url(_))), "{bad}");
    }
}
