//! `/metrics`: the broker in numbers, for Prometheus and whatever reads its text format. METRICS.md lists each family.
//!
//! Labels are what operators name and what the program does: topics, modules, transforms, apis. What clients say of themselves is none.
//! Where there are too many topics, partitions, modules or transforms to tell one by one, a family has one series without that label,
//! and `millstream_series_limited` says so.

mod process;
#[cfg(test)]
mod tests;
mod text;

use std::{
    fmt::Display,
    time::{SystemTime, UNIX_EPOCH},
};

use millstream_broker::{Broker, Metrics, TopicMetrics, TransformMetrics};

use self::{
    process::Process,
    text::{Kind, Text},
};

/// What the answer is.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The broker now, and when the certificate of its listeners ends; none: it is starting, and there is little to tell. Blocks for as
/// long as it takes to look at each log.
pub(super) fn now(serving: Option<(&Broker, Option<SystemTime>)>) -> String {
    let process =
        Process::now().inspect_err(|error| tracing::debug!(%error, "the process's own numbers are not told")).ok();
    let metrics = serving.map(|(broker, _)| broker.metrics());
    render(metrics.as_ref(), serving.and_then(|(_, ends)| ends), process.as_ref())
}

fn render(broker: Option<&Metrics>, certificate_ends: Option<SystemTime>, process: Option<&Process>) -> String {
    let mut page = Page { text: Text::default() };
    page.program(broker);
    if let Some(metrics) = broker {
        page.connections(metrics);
        page.certificate(certificate_ends);
        page.requests(metrics);
        page.topics(metrics);
        page.logs(metrics);
        page.catalog(metrics);
        page.memory(metrics);
        page.modules(metrics);
        page.transforms(metrics);
        page.limited(metrics);
    }
    if let Some(process) = process {
        page.process(process);
    }
    page.text.finish()
}

struct Page {
    text: Text,
}

impl Page {
    fn gauge(&mut self, name: &'static str, help: &str, value: impl Display) {
        self.text.family(name, Kind::Gauge, help).sample(&[], value);
    }

    fn counter(&mut self, name: &'static str, help: &str, value: impl Display) {
        self.text.family(name, Kind::Counter, help).sample(&[], value);
    }

    /// One series for each, or one of all where they are too many to be told.
    fn each<T>(
        &mut self,
        (name, kind, help): (&'static str, Kind, &str),
        label: &'static str,
        (limited, all): (bool, u64),
        items: &[T],
        value: impl Fn(&T) -> (&str, u64),
    ) {
        let mut family = self.text.family(name, kind, help);
        if limited {
            return family.sample(&[], all);
        }
        for (of, value) in items.iter().map(value) {
            family.sample(&[(label, of)], value);
        }
    }

    fn program(&mut self, broker: Option<&Metrics>) {
        let version = env!("CARGO_PKG_VERSION");
        self.text
            .family("millstream_build_info", Kind::Gauge, "1; which program this is.")
            .sample(&[("version", version)], 1);
        let ready = broker.is_some_and(|broker| broker.ready);
        self.gauge("millstream_ready", "1 while records are taken: what /ready says.", u8::from(ready));
        let Some(broker) = broker else { return };
        let node = broker.broker.to_string();
        self.text
            .family("millstream_broker_info", Kind::Gauge, "1; which broker this is, and of which cluster.")
            .sample(&[("cluster", &broker.cluster), ("node_id", &node)], 1);
        self.gauge(
            "millstream_start_time_seconds",
            "When the broker was started, since 1970.",
            broker.started_at.0 as f64 / 1000.0,
        );
        self.gauge(
            "millstream_failed",
            "1 once a write or a sync has failed: the broker acknowledges nothing more, and stops.",
            u8::from(broker.failed),
        );
        self.gauge(
            "millstream_disk_full",
            "1 while records and new topics are refused for want of room on the disk.",
            u8::from(broker.disk_full),
        );
    }

    fn certificate(&mut self, ends: Option<SystemTime>) {
        let Some(ends) = ends.and_then(|ends| ends.duration_since(UNIX_EPOCH).ok()) else { return };
        self.gauge(
            "millstream_tls_certificate_end_time_seconds",
            "When the certificate that listeners show ends, since 1970.",
            ends.as_secs(),
        );
    }

    fn connections(&mut self, metrics: &Metrics) {
        let connections = &metrics.connections;
        let of = (false, 0);
        self.each(
            ("millstream_connections_open", Kind::Gauge, "Connections that stand."),
            "transport",
            of,
            connections,
            |listener| (listener.transport, listener.open),
        );
        self.each(
            ("millstream_connections_accepted_total", Kind::Counter, "Connections that were taken."),
            "transport",
            of,
            connections,
            |listener| (listener.transport, listener.accepted),
        );
        self.each(
            (
                "millstream_connections_refused_total",
                Kind::Counter,
                "Connections for which there was no place: too many in all, of one address, or in their handshake.",
            ),
            "transport",
            of,
            connections,
            |listener| (listener.transport, listener.refused),
        );
    }

    fn requests(&mut self, metrics: &Metrics) {
        let requests = &metrics.requests;
        self.each(
            ("millstream_requests_total", Kind::Counter, "Requests that were read."),
            "api",
            (false, 0),
            &requests.by_api,
            |(api, taken, _)| (*api, *taken),
        );
        self.each(
            (
                "millstream_request_errors_total",
                Kind::Counter,
                "Answers that tell of an error, in all of what was asked or a part of it. A request that wants no answer counts when it \
                 ends its connection.",
            ),
            "api",
            (false, 0),
            &requests.by_api,
            |(api, _, errors)| (*api, *errors),
        );
        let mut family = self.text.family(
            "millstream_request_duration_seconds",
            Kind::Histogram,
            "Time from when a request was read until its answer was complete. A Fetch that waits for records counts with its wait.",
        );
        for (api, buckets) in [("Produce", &requests.produce), ("Fetch", &requests.fetch), ("other", &requests.others)]
        {
            family.histogram(&[("api", api)], buckets);
        }
    }

    fn topics(&mut self, metrics: &Metrics) {
        let (topics, all) = (&metrics.topics, metrics.traffic);
        let mut each = |name, help: &str, all: u64, value: fn(&TopicMetrics) -> u64| {
            let (limited, family) = ((metrics.limited.topics, all), (name, Kind::Counter, help));
            self.each(family, "topic", limited, topics, |topic| (&topic.name, value(topic)));
        };
        each(
            "millstream_topic_records_in_total",
            "Records that were appended, by producers and transforms.",
            all.records_in,
            |topic| topic.traffic.records_in,
        );
        each("millstream_topic_bytes_in_total", "Batches that were appended, as stored.", all.bytes_in, |topic| {
            topic.traffic.bytes_in
        });
        each(
            "millstream_topic_records_out_total",
            "Records in answers to Fetch, read through views as well. A reader that begins in the middle of a batch is sent all of it.",
            all.records_out,
            |topic| topic.traffic.records_out,
        );
        each("millstream_topic_bytes_out_total", "Batches in answers to Fetch.", all.bytes_out, |topic| {
            topic.traffic.bytes_out
        });
        self.each(
            ("millstream_topic_log_bytes", Kind::Gauge, "What the partitions' logs take on disk."),
            "topic",
            (metrics.limited.topics, metrics.topics_log_bytes),
            topics,
            |topic| (&topic.name, topic.log_bytes),
        );
        self.offsets(metrics);
    }

    /// By partition; else added up by topic; else all in one.
    fn offsets(&mut self, metrics: &Metrics) {
        type Of = fn(&millstream_broker::OffsetMetrics) -> i64;
        let families: [(_, _, Of); 3] = [
            ("millstream_partition_log_start_offset", "The first offset that can be read.", |at| at.start),
            ("millstream_partition_log_end_offset", "The offset that the next record gets.", |at| at.end),
            (
                "millstream_partition_high_watermark",
                "The end of what consumers may read: all below it is committed.",
                |at| at.high_watermark,
            ),
        ];
        for (name, help, of) in families {
            let mut family = self.text.family(name, Kind::Gauge, help);
            if metrics.limited.topics {
                family.sample(&[], of(&metrics.offsets));
            }
            for topic in &metrics.topics {
                if metrics.limited.partitions {
                    family.sample(&[("topic", &topic.name)], of(&topic.offsets));
                }
                for (partition, offsets) in &topic.partitions {
                    let partition = partition.to_string();
                    family.sample(&[("topic", &topic.name), ("partition", &partition)], of(offsets));
                }
            }
        }
    }

    fn logs(&mut self, metrics: &Metrics) {
        let (logs, journal) = (&metrics.logs, &metrics.journal);
        self.gauge("millstream_partitions_led", "Partitions that the broker leads and serves.", metrics.partitions_led);
        self.gauge(
            "millstream_partitions_out_of_service",
            "Partitions that it should lead, and whose logs are out of service until the next start.",
            metrics.partitions_out_of_service,
        );
        self.gauge("millstream_logs", "Logs in service: those of partitions, and those of transforms.", logs.logs);
        self.gauge("millstream_log_bytes", "What all logs take on disk, without the journal.", logs.bytes);
        self.gauge("millstream_log_segments", "Segments of all logs.", logs.segments);
        self.gauge("millstream_log_segments_open", "Segments whose files are open.", metrics.segments_open);
        self.gauge(
            "millstream_journal_bytes",
            "Journal that is not recycled yet: past 85 % of the limit, appends wait.",
            journal.used_bytes,
        );
        self.gauge("millstream_journal_limit_bytes", "Most that the journal may take.", journal.max_bytes);
        self.gauge("millstream_journal_files", "Files of the journal, spare ones included.", journal.files);
        self.counter(
            "millstream_journal_written_bytes_total",
            "What was written to the journal, padding included.",
            journal.written_bytes,
        );
        self.text
            .family(
                "millstream_journal_sync_duration_seconds",
                Kind::Histogram,
                "How long the journal's syncs took; each acknowledges all that was written since the one before.",
            )
            .histogram(&[], &journal.syncs);
        self.gauge(
            "millstream_journal_waiting_appends",
            "Appends that are not durable yet: queued for the journal, or being written.",
            journal.waiting,
        );
        self.gauge("millstream_journal_waiting_bytes", "What those hold.", journal.waiting_bytes);
    }

    fn catalog(&mut self, metrics: &Metrics) {
        let catalog = &metrics.catalog;
        self.gauge(
            "millstream_catalog_applied_entry",
            "The last entry of the cluster's agreed log that is applied.",
            catalog.entry,
        );
        self.gauge("millstream_topics", "Topics of the cluster.", catalog.topics);
        self.gauge("millstream_partitions", "Partitions of the cluster's topics.", catalog.partitions);
        self.gauge("millstream_modules", "Modules that were pushed.", catalog.modules);
        self.gauge("millstream_views", "Views.", catalog.views);
    }

    fn memory(&mut self, metrics: &Metrics) {
        let memory = &metrics.memory;
        self.each(
            (
                "millstream_memory_bytes",
                Kind::Gauge,
                "What is held of the memory that many share: by large requests and answers (frames), by batches unpacked for modules \
                 (unpacked), by what modules emitted (emitted) or views show (shown), by fetch sessions (fetch_sessions), by fetches \
                 that name many partitions (fetches), by subscriptions.",
            ),
            "use",
            (false, 0),
            memory,
            |memory| (memory.purpose, memory.used as u64),
        );
        self.each(
            (
                "millstream_memory_limit_bytes",
                Kind::Gauge,
                "Most that may be held of each: who needs more then waits, or is refused.",
            ),
            "use",
            (false, 0),
            memory,
            |memory| (memory.purpose, memory.max as u64),
        );
        self.gauge(
            "millstream_catch_up_waiting_requests",
            "Fetches of old records that wait, since producers would suffer from them.",
            metrics.catch_up_waiting,
        );
    }

    fn modules(&mut self, metrics: &Metrics) {
        let (modules, runtime) = (&metrics.modules, &metrics.runtime);
        type Of = fn(&millstream_broker::CallMetrics) -> u64;
        let counters: [(_, _, Of); 5] = [
            ("millstream_module_calls_total", "Calls of the module that gave a result.", |calls| calls.calls),
            ("millstream_module_failures_total", "Calls that failed, for whatever reason.", |calls| calls.failures),
            (
                "millstream_module_traps_total",
                "Of those, calls that cost their instance: it trapped, used up its fuel or asked for too much memory.",
                |calls| calls.traps,
            ),
            (
                "millstream_module_fuel_total",
                "Fuel that calls used, about an instruction each; failed ones included.",
                |calls| calls.fuel,
            ),
            ("millstream_module_instances_started_total", "Instances that were made.", |calls| calls.started),
        ];
        for (name, help, of) in counters {
            let all = (metrics.limited.modules, of(&runtime.calls));
            self.each((name, Kind::Counter, help), "module", all, modules, |module| {
                (&module.module, of(&module.calls))
            });
        }
        self.gauge("millstream_wasm_instances", "Instances of all modules, at work and idle.", runtime.instances);
        self.gauge("millstream_wasm_instances_limit", "Most that there may be.", runtime.instances_max);
        self.gauge("millstream_wasm_memory_bytes", "What they hold together.", runtime.memory_bytes);
        self.gauge("millstream_wasm_memory_limit_bytes", "Most that they may hold.", runtime.memory_bytes_max);
        self.text
            .family(
                "millstream_wasm_compile_duration_seconds",
                Kind::Histogram,
                "How long modules took to be compiled: those that were pushed, and stored ones after an upgrade.",
            )
            .histogram(&[], &runtime.compiled);
        self.counter(
            "millstream_wasm_compile_failures_total",
            "Modules that the compiler refused, or failed at.",
            runtime.compile_failures,
        );
    }

    fn transforms(&mut self, metrics: &Metrics) {
        let (transforms, totals) = (&metrics.transforms, metrics.transform_totals);
        let limited = metrics.limited.transforms;
        let mut family = self.text.family(
            "millstream_transform_state",
            Kind::Gauge,
            "1 for the state that the transform is in, 0 for the others.",
        );
        for (state, count) in metrics.catalog.transforms {
            if limited {
                family.sample(&[("state", state)], count);
            }
            for transform in transforms {
                let is_in = u8::from(transform.state == state);
                family.sample(&[("transform", &transform.name), ("state", state)], is_in);
            }
        }
        let mut each = |name, help: &str, all: u64, value: fn(&TransformMetrics) -> u64| {
            let family = (name, Kind::Counter, help);
            self.each(family, "transform", (limited, all), transforms, |transform| (&transform.name, value(transform)));
        };
        each(
            "millstream_transform_records_in_total",
            "Records that the transform has gone through here.",
            totals.counts.records_in,
            |transform| transform.counts.records_in,
        );
        each(
            "millstream_transform_records_out_total",
            "Records that it has appended.",
            totals.counts.records_out,
            |transform| transform.counts.records_out,
        );
        each(
            "millstream_transform_errors_total",
            "Records that failed, each time.",
            totals.counts.errors,
            |transform| transform.counts.errors,
        );
        each(
            "millstream_transform_records_left_out_total",
            "Records that it was told to leave out.",
            totals.counts.left_out,
            |transform| transform.counts.left_out,
        );
        let mut family = self.text.family(
            "millstream_transform_lag_records",
            Kind::Gauge,
            "Offsets up to the high watermarks of its inputs that it has not come to. Of one that has stood still since the start, that is \
             not known.",
        );
        if limited {
            family.sample(&[], totals.lag);
        }
        for transform in transforms {
            if let Some(lag) = transform.lag {
                family.sample(&[("transform", &transform.name)], lag);
            }
        }
    }

    fn limited(&mut self, metrics: &Metrics) {
        let limited = metrics.limited;
        let by = [
            ("topic", limited.topics),
            ("partition", limited.partitions),
            ("module", limited.modules),
            ("transform", limited.transforms),
        ];
        let mut family = self.text.family(
            "millstream_series_limited",
            Kind::Gauge,
            "1 while there are too many of these to be told one by one: families with this label have it no more, and tell of all together.",
        );
        for (label, limited) in by {
            family.sample(&[("by", label)], u8::from(limited));
        }
    }

    fn process(&mut self, process: &Process) {
        self.counter(
            "process_cpu_seconds_total",
            "Processor time that the process has used, the system's on its behalf included.",
            process.cpu_seconds,
        );
        self.gauge("process_resident_memory_bytes", "Memory that it has.", process.resident_bytes);
        self.gauge("process_virtual_memory_bytes", "Addresses that it has.", process.virtual_bytes);
        self.gauge("process_open_fds", "Descriptors that are open.", process.open_fds);
        let mut family =
            self.text.family("process_max_fds", Kind::Gauge, "Most that may be; +Inf: as many as it likes.");
        match process.max_fds {
            Some(max) => family.sample(&[], max),
            None => family.sample(&[], "+Inf"),
        }
        self.gauge("process_threads", "Its threads.", process.threads);
        self.gauge("process_start_time_seconds", "When the process was started, since 1970.", process.started_at);
    }
}
