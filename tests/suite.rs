//! Every black-box suite, in one binary: it is linked once, and a newcomer finds all suites here.

#[cfg(test)]
mod arrows;
#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod callers;
#[cfg(test)]
mod command_line;
#[cfg(test)]
mod corpora;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod denials;
#[cfg(test)]
mod dependencies;
#[cfg(test)]
mod dev;
#[cfg(test)]
mod disk_full;
#[cfg(test)]
mod failures;
#[cfg(test)]
mod fault_proxy;
#[cfg(test)]
mod flow;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod lists;
#[cfg(test)]
mod oauth;
#[cfg(test)]
mod outside;
#[cfg(test)]
mod pages;
#[cfg(test)]
mod panics;
#[cfg(test)]
mod peers;
#[cfg(test)]
mod provider;
#[cfg(test)]
mod refresh;
#[cfg(test)]
mod release;
#[cfg(test)]
mod rendering;
#[cfg(test)]
mod sealing;
#[cfg(test)]
mod secrets;
#[cfg(test)]
mod shutdown;
#[cfg(test)]
mod tenancy;
#[cfg(test)]
mod watch;
#[cfg(test)]
mod workspace;
