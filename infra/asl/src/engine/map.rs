//! Map states: one small branch per item.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use serde_json::Value;

use super::branch::{Branch, End, Interrupt, Moved, Pending, Start, Visit, iteration_path};
use crate::context::MapItem;
use crate::definition::Map;
use crate::document::Document;
use crate::failure::Failure;
use crate::history::Happening;
use crate::limits;
use crate::store::{Change, Phase};

/// The iterations of one Map while it runs.
struct Iterations {
    running: FuturesUnordered<BoxFuture<'static, (usize, End)>>,
    active: BTreeSet<usize>,
    waiting: VecDeque<usize>,
    outputs: BTreeMap<usize, Value>,
    /// Bytes of all outputs so far: a Map whose result would be too large fails as soon as that is sure.
    output_bytes: usize,
}

impl Branch {
    pub(super) async fn map(&mut self, visit: &Visit, map: &Map, is_left: bool) -> Result<Moved, Interrupt> {
        let context = self.context(visit, None);
        let raw = &*visit.input.value;
        let input = visit.state.flow.input(raw, &context)?;
        let items = crate::template::resolve(&map.items_path, "ItemsPath", &input, &context)?;
        let items = items.as_array().ok_or_else(|| {
            Failure::runtime(format!(
                "ItemsPath is {:?}, and what is there is not a list.",
                map.items_path.text()
            ))
        })?;
        if !is_left {
            self.run.forget_left(&self.path);
            self.happened(Happening::map_started(items.len()));
            self.pending.changes.push(Change::Put(visit.cursor(&self.path, Phase::Acting)));
            self.store().await?;
        }
        let started_event = self.pending.last_event;
        let mut iterations = self.prepare(visit, map, &input, items, started_event)?;
        self.begin_more(&mut iterations, visit, map, &input, items, started_event)?;
        while !iterations.active.is_empty() {
            // This branch only waits now; each of its iterations is at work for itself.
            drop(std::mem::take(&mut self.work));
            let Some((index, end)) = iterations.running.next().await else { break };
            iterations.active.remove(&index);
            match end {
                End::Finished { output, pending, work } => {
                    self.work = work;
                    self.merge(pending);
                    self.happened(Happening::map_iteration("Succeeded", &visit.state.name, index));
                    iterations.output_bytes += output.text.len() + 1;
                    if iterations.output_bytes > limits::MAX_PAYLOAD_BYTES {
                        return Err(self.map_failed(visit, &iterations, too_large(&iterations)).into());
                    }
                    iterations.outputs.insert(index, Value::clone(&output.value));
                    let is_last = iterations.active.is_empty() && iterations.waiting.is_empty();
                    if !is_last {
                        let path = iteration_path(&self.path, index);
                        self.pending.changes.push(Change::Drop(path.clone()));
                        self.pending.changes.push(Change::PutIteration(path, output.text));
                        self.store().await?;
                        self.begin_more(&mut iterations, visit, map, &input, items, started_event)?;
                    }
                }
                End::Failed { failure, pending, work } => {
                    self.work = work;
                    self.merge(pending);
                    self.happened(Happening::map_iteration("Failed", &visit.state.name, index));
                    return Err(self.map_failed(visit, &iterations, failure).into());
                }
                End::TimedOut { .. } | End::Gone => return Err(Interrupt::Gone),
            }
        }
        self.pending.changes.push(Change::DropIterations(self.path.clone()));
        self.happened(Happening::map_ended("Succeeded"));
        let result = Document::new(iterations.outputs.into_values().collect(), "result of the Map")?;
        let output = visit.state.flow.output(raw, Value::clone(&result.value), &context)?;
        Ok(Moved { output, next: map.next.clone() })
    }

    /// Sorts the items into those that a former process finished, those it had begun, which go on at once,
    /// and the rest.
    fn prepare(
        &mut self,
        visit: &Visit,
        map: &Map,
        input: &Value,
        items: &[Value],
        started_event: i64,
    ) -> Result<Iterations, Interrupt> {
        let mut iterations = Iterations {
            running: FuturesUnordered::new(),
            active: BTreeSet::new(),
            waiting: VecDeque::new(),
            outputs: BTreeMap::new(),
            output_bytes: 0,
        };
        for index in 0..items.len() {
            let path = iteration_path(&self.path, index);
            if let Some(output) = self.run.take_iteration(&path) {
                let value = serde_json::from_str(&output)
                    .map_err(|error| Failure::runtime(format!("A stored output is unreadable: {error}.")))?;
                iterations.output_bytes += output.len() + 1;
                iterations.outputs.insert(index, value);
            } else if let Some(cursor) = self.run.take_cursor(&path) {
                self.begin(
                    &mut iterations,
                    index,
                    visit,
                    map,
                    input,
                    items,
                    started_event,
                    Some(Start::Left(cursor)),
                )?;
            } else {
                iterations.waiting.push_back(index);
            }
        }
        Ok(iterations)
    }

    fn begin_more(
        &mut self,
        iterations: &mut Iterations,
        visit: &Visit,
        map: &Map,
        input: &Value,
        items: &[Value],
        started_event: i64,
    ) -> Result<(), Interrupt> {
        while iterations.active.len() < map.max_concurrency
            && let Some(index) = iterations.waiting.pop_front()
        {
            self.begin(iterations, index, visit, map, input, items, started_event, None)?;
        }
        Ok(())
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "they are the Map's situation, which both callers have at hand"
    )]
    fn begin(
        &mut self,
        iterations: &mut Iterations,
        index: usize,
        visit: &Visit,
        map: &Map,
        input: &Value,
        items: &[Value],
        started_event: i64,
        left: Option<Start>,
    ) -> Result<(), Interrupt> {
        let item = MapItem { index, value: items[index].clone() };
        let mut pending = Pending { last_event: started_event, ..Pending::default() };
        let start = if let Some(left) = left {
            left
        } else {
            let happening = Happening::map_iteration("Started", &visit.state.name, index);
            pending.events.push(happening.into_event(Some(started_event), self.run.engine.now()));
            let selected = match &map.item_selector {
                Some(template) => {
                    let context = self.context_of_item(visit, None, Some(&item));
                    template.fill(input, &context)?
                }
                None => item.value.clone(),
            };
            Start::Fresh(Document::new(selected, "input of an iteration")?)
        };
        let running = self.iteration(map, item, pending).run(start);
        iterations.running.push(Box::pin(async move { (index, running.await) }));
        iterations.active.insert(index);
        Ok(())
    }

    /// Takes over what an iteration did since it last stored anything.
    fn merge(&mut self, pending: Pending) {
        if pending.events.is_empty() && self.pending.events.is_empty() {
            self.pending.last_event = pending.last_event;
        }
        self.pending.events.extend(pending.events);
        self.pending.transitions += pending.transitions;
        self.pending.changes.extend(pending.changes);
    }

    fn map_failed(&mut self, visit: &Visit, iterations: &Iterations, failure: Failure) -> Failure {
        for index in &iterations.active {
            self.happened(Happening::map_iteration("Aborted", &visit.state.name, *index));
        }
        self.happened(Happening::map_ended("Failed"));
        self.pending.changes.push(Change::DropIterations(self.path.clone()));
        failure
    }
}

fn too_large(iterations: &Iterations) -> Failure {
    Failure::too_large("result of the Map", iterations.output_bytes)
}
