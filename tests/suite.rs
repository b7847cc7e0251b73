//! Every black-box suite, in one binary: it is linked once, and a newcomer finds all suites here.

#[cfg(test)]
mod arrows;
#[cfg(test)]
mod dependencies;
#[cfg(test)]
mod failures;
#[cfg(test)]
mod flow;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod pages;
#[cfg(test)]
mod release;
#[cfg(test)]
mod sealing;
#[cfg(test)]
mod workspace;
