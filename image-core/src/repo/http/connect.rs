//! Connections whose first packet was lost: the kernel waits a second before it sends that again, which is long where a server is
//! near and the network loses packets. So it is tried anew sooner, twice.

use std::time::Duration;

use ureq::Error;
use ureq::unversioned::transport::{
    ConnectionDetails, Connector, DefaultConnector, NextTimeout, Transport,
};

/// How long the first attempts wait; a server that is far away answers within the last one.
const SOON: [Duration; 2] = [Duration::from_millis(150), Duration::from_millis(500)];

/// Makes connections as usual, but tries again sooner.
#[derive(Default, Debug)]
pub struct Soon(DefaultConnector);

impl Soon {
    fn once(
        &self,
        details: &ConnectionDetails<'_>,
        timeout: NextTimeout,
    ) -> Result<Option<Box<dyn Transport>>, Error> {
        let details = ConnectionDetails {
            timeout,
            now: (details.current_time)(),
            addrs: details.addrs.clone(),
            current_time: details.current_time.clone(),
            run_connector: details.run_connector.clone(),
            register_shutdown: details.register_shutdown.clone(),
            ..*details
        };
        self.0.connect(&details, None)
    }
}

impl Connector<()> for Soon {
    type Out = Box<dyn Transport>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _: Option<()>,
    ) -> Result<Option<Self::Out>, Error> {
        for after in SOON {
            match self.once(details, NextTimeout { after: after.into(), ..details.timeout }) {
                Err(Error::Timeout(_)) => {}
                ended => return ended,
            }
        }
        self.once(details, details.timeout)
    }
}
