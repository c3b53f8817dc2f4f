//! What the scenario, the keys and the socket do.

use anyhow::{Context, bail};
use crossterm::event::KeyEvent;
use serde_json::json;

use super::{End, Show};
use crate::playground::clock;
use crate::playground::cluster::kubelet::Order;
use crate::playground::control_socket::{Answer, Deed, Request};
use crate::playground::identity;
use crate::playground::measure::client::Client;
use crate::playground::member::State;
use crate::playground::scenario::Act;
use crate::playground::view::Wish;

/// How slow a pod is made by a key, in milliseconds.
const SLOW_MS: u32 = 500;
/// What a broken pod answers by a key.
const BROKEN_STATUS: u16 = 503;

impl Show {
    pub(super) async fn act(&mut self, act: Act) -> anyhow::Result<()> {
        match act {
            Act::KillCatalog => {
                let Some(pod) = self.last_catalog_pod() else {
                    self.record
                        .notice("There is no catalog pod to kill.".to_owned());
                    return Ok(());
                };
                self.record.killed(&pod);
                self.record.event("killed", json!({"pod": pod}));
                self.world.order(&pod, Order::Kill)?;
                self.say(&format!("{pod} is killed"));
            }
            Act::ReviveCatalog => {
                if let Some(killed) = self.record.kill_report() {
                    self.record.revived();
                    self.record.event("revived", json!({"pod": killed.pod}));
                    self.world.order(&killed.pod, Order::Revive)?;
                    self.say(&format!("{} is revived", killed.pod));
                }
            }
            Act::KillControlPlane => {
                self.control_plane.kill().await;
                self.record.event("control_plane_killed", json!({}));
                self.say("the control plane is killed");
            }
            Act::StartControlPlane => {
                self.control_plane.start_again()?;
                self.outage_ended = Some(clock::now());
                self.record.event("control_plane_started", json!({}));
                self.say("the control plane is started again");
            }
            Act::EnterStage(index) => self.enter_stage(index).await?,
            Act::ReplaceRoot => {
                identity::replace_root(&self.plan.stage())?;
                self.record.renewals.root_replaced();
                self.record.event("root_replaced", json!({}));
                self.say("the root of the CA is replaced");
            }
        }
        Ok(())
    }

    fn last_catalog_pod(&self) -> Option<String> {
        let pods = self.world.pods().iter();
        let mut catalog = pods
            .filter(|(_, member)| member.deployment.1 == "catalog" && member.state == State::Ready);
        catalog.next_back().map(|(name, _)| name.clone())
    }

    pub(super) async fn obey(&mut self, request: &Request) -> Answer {
        match self.perform(request).await {
            Ok(message) => Answer { ok: true, message },
            Err(error) => Answer {
                ok: false,
                message: format!("{error:#}"),
            },
        }
    }

    async fn perform(&mut self, request: &Request) -> anyhow::Result<String> {
        let pod = request.pod.as_str();
        match request.deed {
            Deed::Kill => {
                self.world.order(pod, Order::Kill)?;
                self.record.event("killed", json!({"pod": pod}));
                Ok(format!("{pod} is killed; its endpoint stays listed"))
            }
            Deed::Revive => {
                self.world.order(pod, Order::Revive)?;
                self.record.event("revived", json!({"pod": pod}));
                Ok(format!("{pod} is being started"))
            }
            Deed::Slow(ms) => {
                self.post(pod, &format!("/slow?ms={ms}")).await?;
                self.record.event("slow", json!({"pod": pod, "ms": ms}));
                Ok(if ms == 0 {
                    format!("{pod} is as fast as before")
                } else {
                    format!("{pod} answers {ms} ms later")
                })
            }
            Deed::Break(status) => {
                self.post(pod, &format!("/break?status={status}")).await?;
                self.record
                    .event("break", json!({"pod": pod, "status": status}));
                Ok(if status == 0 {
                    format!("{pod} is mended")
                } else {
                    format!("{pod} answers {status}")
                })
            }
        }
    }

    async fn post(&mut self, pod: &str, path: &str) -> anyhow::Result<()> {
        let member = self.world.member(pod)?;
        if member.state != State::Ready {
            bail!("{pod} does not run");
        }
        let address = member
            .application
            .clone()
            .with_context(|| format!("{pod} has no port to be told by"))?;
        let (status, body) = Client::new(address)
            .post(path)
            .await
            .with_context(|| format!("{pod} cannot be told"))?;
        if !(200..300).contains(&status) {
            bail!(
                "{pod} refused {path}: {status} {}",
                String::from_utf8_lossy(&body)
            );
        }
        Ok(())
    }

    pub(super) async fn key(&mut self, key: KeyEvent) -> Option<End> {
        let wish = self.view.as_mut().and_then(|view| view.key(key));
        let request = match wish? {
            Wish::Quit => return Some(End::Interrupted),
            Wish::Redraw => {
                self.redraw();
                return None;
            }
            Wish::Kill(pod) => Request {
                pod,
                deed: Deed::Kill,
            },
            Wish::Revive(pod) => Request {
                pod,
                deed: Deed::Revive,
            },
            Wish::Slow(pod) => {
                let ms = if self.slowed.remove(&pod) { 0 } else { SLOW_MS };
                if ms > 0 {
                    self.slowed.insert(pod.clone());
                }
                Request {
                    pod,
                    deed: Deed::Slow(ms),
                }
            }
            Wish::Break(pod) => {
                let status = if self.broken.remove(&pod) {
                    0
                } else {
                    BROKEN_STATUS
                };
                if status > 0 {
                    self.broken.insert(pod.clone());
                }
                Request {
                    pod,
                    deed: Deed::Break(status),
                }
            }
        };
        let answer = self.obey(&request).await;
        if !answer.ok {
            self.record
                .event("refused", json!({"message": answer.message}));
        }
        self.redraw();
        None
    }
}
