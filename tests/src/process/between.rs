//! What lies between the two sites of a round: nothing but loopback, proxies that can be cut, or the lines between two hosts.

use std::sync::Arc;
use std::time::Duration;

use lockstep_gateway::demo::sites::{Pair, Stream};

use super::hosts::Hosts;
use super::hosts::relay::Delay;
use super::proxy::{Proxy, Wire};
use super::scene::Options;

/// Two hosts that sites are to run on, and which line is to join them.
#[derive(Debug, Clone)]
pub struct Housing {
    /// The hosts.
    pub hosts: Arc<Hosts>,
    /// The long line, whose packets can be delayed.
    pub is_long: bool,
}

/// The link between two sites.
pub enum Between {
    /// It cannot be cut.
    Loopback,
    /// One there, and one on the way back, from B as the source to A.
    Proxies {
        /// From A to B.
        there: Proxy,
        /// From B to A.
        back: Proxy,
    },
    /// Namespaces.
    Hosts(Housing),
}

impl Between {
    /// Starts two sites, linked as the round wants it, and waits until they are in sync.
    ///
    /// # Errors
    /// When a site does not start or the two do not come into sync.
    pub async fn start(pair: &mut Pair, options: &Options, can_be_cut: bool) -> Result<Self, String> {
        let (root, stream): (_, &Stream) = (&options.root, &options.stream);
        if let Some(housing) = &options.housing {
            housing.hosts.house(pair, housing.is_long)?;
            let between = Self::Hosts(housing.clone());
            between.set(Wire::WHOLE)?;
            pair.start(root, stream, &pair.b.mirror.clone()).await?;
            return Ok(between);
        }
        if !can_be_cut {
            pair.start(root, stream, &pair.b.mirror.clone()).await?;
            return Ok(Self::Loopback);
        }
        let (there, back) = (Proxy::new(&pair.b.mirror).await?, Proxy::new(&pair.a.mirror).await?);
        pair.start_linked(root, stream, &there.address, &back.address).await?;
        Ok(Self::Proxies { there, back })
    }

    /// Makes it so; `forth` is from A to B, whoever connects.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn set(&self, wire: Wire) -> Result<(), String> {
        match self {
            Self::Loopback => {}
            Self::Proxies { there, back } => {
                there.set(wire);
                back.set(Wire { forth: wire.back, back: wire.forth, ..wire });
            }
            Self::Hosts(Housing { hosts, is_long }) => {
                if *is_long {
                    hosts.delay(Delay { each_way: wire.delay, jitter: wire.delay / 5 })?;
                }
                hosts.pass(wire.forth, wire.back)?;
            }
        }
        Ok(())
    }

    /// Breaks the connections that stand; new ones can be made at once.
    ///
    /// # Errors
    /// Where nothing lies between the sites that could.
    pub fn reset(&self) -> Result<(), String> {
        let Self::Proxies { there, back } = self else { return Err("nothing here can break a connection".into()) };
        there.reset();
        back.reset();
        Ok(())
    }

    /// Pulls the plug at A, where there is one: the system there says at once that B is out of reach. Says whether there is
    /// one. [`Between::set`] plugs it in again.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn unplug(&self) -> Result<bool, String> {
        let Self::Hosts(housing) = self else { return Ok(false) };
        housing.hosts.unplug().map(|()| true)
    }

    /// Longest delay, one way, that it can have.
    #[must_use]
    pub fn delay_max(&self) -> Duration {
        match self {
            Self::Hosts(Housing { is_long: true, .. }) => Duration::from_millis(20),
            _ => Duration::ZERO,
        }
    }
}
