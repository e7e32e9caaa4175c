//! What happens in a network of memberships: ticks, messages, disks that are slow.

use super::*;

impl Network {
    pub(super) fn tick(&mut self, name: &str) {
        let now_ms = self.now_ms;
        let now_us = self.wall_us(name);
        let host = self.hosts.get_mut(name).expect("listed");
        let Some(node) = host
            .running
            .as_mut()
            .filter(|_| host.asleep_until_ms <= now_ms)
        else {
            return;
        };
        let mut out = node.tick(now_ms, now_us, &mut self.dice);
        // What the machine around it does: probes.
        for to in node.detector_mut().due_probes(now_ms) {
            let id = crate::protocol::message::MessageId(now_ms);
            let address = node.address(to).expect("only members are probed").clone();
            out.push(Gossip::Send {
                to,
                address,
                message: Message::Probe { id },
            });
        }
        self.carry_out(name, out);
        self.move_data(name);
    }

    /// What the machine around it does with a change of layout.
    pub(super) fn move_data(&mut self, name: &str) {
        let transfer_ms = self.transfer_ms;
        let host = self.hosts.get_mut(name).expect("listed");
        let node = host.running.as_mut().expect("it ticked");
        let mut out = node.try_depart(!host.holds);
        let wanted = node.sync_wanted().map(|version| {
            let layout = node.layout().expect("one is wanted");
            assert_eq!(layout.version(), version);
            (version, layout.digest())
        });
        let life = host.life;
        if wanted != host.transfer {
            host.transfer = wanted;
            if let Some((version, digest)) = wanted {
                if transfer_ms == 0 {
                    out.extend(node.on_synced(version, digest));
                } else {
                    let name = name.to_owned();
                    let done = Event::Transferred {
                        name,
                        life,
                        version,
                        digest,
                    };
                    self.plan(transfer_ms, done);
                }
            }
        }
        self.carry_out(name, out);
    }

    pub(super) fn wall_us(&self, name: &str) -> u64 {
        1_700_000_000_000_000 + self.now_ms * 1_000 + self.hosts[name].skew_us
    }

    pub(super) fn plan(&mut self, after_ms: u64, event: Event) {
        self.queue
            .push(Reverse((self.now_ms + after_ms, self.next_event)));
        self.events.insert(self.next_event, event);
        self.next_event += 1;
    }

    pub(super) fn carry_out(&mut self, name: &str, out: Vec<Gossip>) {
        for gossip in out {
            match gossip {
                Gossip::Send {
                    to,
                    address,
                    message,
                } => self.send(name, to, address, &message),
                Gossip::Contact { address, message } => {
                    self.send(name, NodeId(0), address, &message);
                }
                Gossip::Persist { revision } => {
                    let host = &self.hosts[name];
                    let node = host.running.as_ref().expect("it acts");
                    let (life, bytes) = (host.life, encode(&node.persisted()));
                    assert_eq!(node.revision(), revision);
                    self.plan(
                        self.disk_ms,
                        Event::Stored {
                            name: name.into(),
                            life,
                            revision,
                            bytes,
                        },
                    );
                }
                Gossip::RenewIncarnation => self.host(name).renewals += 1,
                Gossip::Fault(fault) => self.reported.push((name.into(), fault)),
                Gossip::LayoutChanged | Gossip::CatalogChanged | Gossip::MembersChanged => {}
            }
        }
    }

    pub(super) fn send(&mut self, name: &str, to: NodeId, address: Address, message: &Message) {
        let bytes = encode(message);
        self.traffic = (self.traffic.0 + 1, self.traffic.1 + bytes.len() as u64);
        let listener = self.listener(&address);
        let across = |side: &[String]| {
            let inside = |name: &str| side.iter().any(|member| member == name);
            listener
                .as_deref()
                .is_some_and(|other| inside(name) != inside(other))
        };
        if !self.side.is_empty() && across(&self.side) {
            return;
        }
        let delay_ms = 1 + (self.dice)() % self.faults.longest_ms;
        if listener.is_none() {
            let life = self.hosts[name].life;
            let refused = Event::Refused {
                name: name.into(),
                life,
                to,
                bytes,
            };
            self.plan(delay_ms, refused);
            return;
        }
        let from = self.hosts[name].identity.node;
        let copies = 1 + usize::from((self.dice)() % 100 < self.faults.repeat_percent);
        for _ in 0..copies {
            if (self.dice)() % 100 >= self.faults.loss_percent {
                let delay_ms = 1 + (self.dice)() % self.faults.longest_ms;
                let arrive = Event::Arrive {
                    from,
                    from_name: name.into(),
                    address: address.clone(),
                    bytes: bytes.clone(),
                };
                self.plan(delay_ms, arrive);
            }
        }
    }

    pub(super) fn listener(&self, address: &Address) -> Option<String> {
        let listens = |host: &Host| host.running.is_some() && host.identity.address == *address;
        self.hosts
            .iter()
            .find(|(_, host)| listens(host))
            .map(|(name, _)| name.clone())
    }

    pub(super) fn happen(&mut self, event: Event) {
        let now_ms = self.now_ms;
        match event {
            Event::Arrive {
                from,
                from_name,
                address,
                bytes,
            } => {
                let Some(name) = self.listener(&address) else {
                    return;
                };
                let asleep_until_ms = self.hosts[&name].asleep_until_ms;
                if asleep_until_ms > now_ms {
                    let later = Event::Arrive {
                        from,
                        from_name,
                        address,
                        bytes,
                    };
                    self.plan(asleep_until_ms - now_ms + 1, later);
                    return;
                }
                let message = postcard::from_bytes(&bytes).expect("what was sent arrives");
                if let Message::Probe { id } = message {
                    let node = self.hosts[&name].running.as_ref().expect("it listens");
                    if let Some(back) = node.address(from).cloned() {
                        self.send(&name, from, back, &Message::ProbeAnswer { id });
                    }
                }
                let now_us = self.wall_us(&name);
                let node = self.host(&name).running.as_mut().expect("it listens");
                let out = node.on_message(from, message, now_ms, now_us);
                self.carry_out(&name, out);
            }
            Event::Refused {
                name,
                life,
                to,
                bytes,
            } => {
                let host = self.host(&name);
                if let Some(node) = host.running.as_mut().filter(|_| host.life == life) {
                    let message = postcard::from_bytes(&bytes).expect("what was sent returns");
                    node.on_undelivered(to, &message, now_ms);
                }
            }
            Event::Stored {
                name,
                life,
                revision,
                bytes,
            } => {
                let host = self.host(&name);
                if host.life != life || host.running.is_none() {
                    return;
                }
                host.disk = Some(bytes);
                let node = host.running.as_mut().expect("it runs");
                let out = node.on_persisted(revision, now_ms);
                self.carry_out(&name, out);
            }
            Event::Transferred {
                name,
                life,
                version,
                digest,
            } => {
                let host = self.host(&name);
                if let Some(node) = host.running.as_mut().filter(|_| host.life == life) {
                    let out = node.on_synced(version, digest);
                    self.carry_out(&name, out);
                }
            }
        }
    }
}
