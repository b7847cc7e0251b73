//! The words of each page. Short sentences, nobody's fault, and never a promise that was not kept.

use super::Outcome;

/// The sign above the title.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// All went well.
    Done,
    /// It goes on in the app.
    Onward,
    /// It ended; nobody failed.
    Stopped,
    /// Something went wrong.
    Failed,
}

/// One page in words.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Words {
    pub(super) mark: Mark,
    /// The outcome, as title and heading.
    pub(super) title: String,
    /// What happened.
    pub(super) story: String,
    /// What to do next.
    pub(super) next: &'static str,
    /// What someone should know who did not ask for this page.
    pub(super) warning: Option<&'static str>,
}

const START_AGAIN: &str = "Go back to the app and start again.";
const CHECK_IN_THE_APP: &str =
    "Check in the app whether your account is connected. If it is not, start again there.";

impl Words {
    /// The words for an outcome; `provider` is its name, or empty.
    pub(super) fn of(outcome: &Outcome<'_>, provider: &str) -> Self {
        let (account, your_account, service, the_service) = match provider {
            "" => ("Your account", "your account".to_owned(), "The service", "the service"),
            name => (name, format!("your {name} account"), name, name),
        };
        match outcome {
            Outcome::Connected { again, .. } => {
                let (again, can) = if *again { (" again", "can go on using") } else { ("", "can now use") };
                Self::new(
                    Mark::Done,
                    format!("{account} is connected{again}"),
                    format!("The app that sent you here {can} {your_account}, with the access that you allowed."),
                    "You can close this window.",
                )
            }
            Outcome::AlmostDone => Self::new(
                Mark::Onward,
                "One step is left",
                format!("{service} has agreed. The app must still confirm that it was you who asked."),
                "Go back to the app to finish.",
            )
            .warning(
                "If you did not ask an app for this, close this window, and nothing will be connected.",
            ),
            Outcome::Refused => Self::new(
                Mark::Stopped,
                "Access was not given",
                format!("{service} reports that access was declined. Nothing was changed."),
                "You can close this window. If you did not mean to decline, go back to the app and start again.",
            ),
            Outcome::Expired => Self::new(
                Mark::Stopped,
                "This link has expired",
                "To keep your account safe, a link works for a short time only. Nothing was changed.",
                START_AGAIN,
            ),
            Outcome::AlreadyUsed => Self::new(
                Mark::Stopped,
                "This link was used already",
                "To keep your account safe, a link works only once.",
                CHECK_IN_THE_APP,
            ),
            Outcome::WrongBrowser => Self::new(
                Mark::Failed,
                "This is not the browser you started in",
                "To keep your account safe, you must finish in the browser in which you started, with cookies \
                 allowed. Nothing was changed.",
                "Go back to the app, start again, and stay in the same browser.",
            )
            .warning("If someone else sent you this link, close this window."),
            Outcome::OtherAccount => Self::new(
                Mark::Stopped,
                "That was another account",
                format!(
                    "You signed in to {the_service} with another account than the one that was connected before. \
                     Nothing was changed."
                ),
                "Go back to the app, start again, and sign in with the same account as before.",
            ),
            Outcome::ProviderDown => Self::new(
                Mark::Failed,
                format!("{service} did not answer properly"),
                "Your account could not be connected. This is not your fault.",
                "Wait a few minutes. Then go back to the app and start again.",
            ),
            Outcome::ProviderRefused { .. } => Self::new(
                Mark::Failed,
                format!("{service} did not accept the request"),
                "Your account could not be connected. This is not your fault.",
                "Go back to the app and start again. If this page comes back, show it to the people who run the app.",
            ),
            Outcome::Misconfigured => Self::new(
                Mark::Failed,
                "The app is not set up correctly",
                format!(
                    "The people who run it must correct its settings for {the_service}. This is not your fault."
                ),
                "Tell the people who run the app. Starting again will not help until they have corrected it.",
            ),
            Outcome::NotFound => Self::new(
                Mark::Failed,
                "This link does not work",
                "It may be incomplete, or too old.",
                START_AGAIN,
            ),
            Outcome::BadRequest => Self::new(
                Mark::Failed,
                "This link is damaged",
                "A part of it is missing or was changed on the way.",
                START_AGAIN,
            ),
            Outcome::Failed => Self::new(
                Mark::Failed,
                "Something went wrong here",
                "We could not finish what you asked for. This is not your fault.",
                CHECK_IN_THE_APP,
            ),
            Outcome::TryLater => Self::new(
                Mark::Failed,
                "Please try again in a minute",
                "Something that we need cannot be reached at the moment. This is not your fault.",
                "Wait a minute, then reload this page. If that does not help, go back to the app and start again.",
            ),
        }
    }

    fn new(mark: Mark, title: impl Into<String>, story: impl Into<String>, next: &'static str) -> Self {
        Self { mark, title: title.into(), story: story.into(), next, warning: None }
    }

    fn warning(self, warning: &'static str) -> Self {
        Self { warning: Some(warning), ..self }
    }
}
