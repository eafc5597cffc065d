//! What the clean-up counts is what the template's metrics are made of.

use std::collections::BTreeSet;

use pvm_application::cleanup::Counts;
use serde_json::Value;

use crate::template::TEMPLATE;
use crate::{differences, text};

/// `deleted_files` as the metric's name has it: `DeletedFiles`.
fn name_of(field: &str) -> String {
    field.split('_').map(|word| word[..1].to_uppercase() + &word[1..]).collect()
}

fn fields() -> BTreeSet<String> {
    let counts = serde_json::to_value(Counts::default()).unwrap();
    counts.as_object().unwrap().keys().cloned().collect()
}

#[test]
fn every_count_of_the_clean_up_is_a_metric() {
    let mut found = BTreeSet::new();
    let mut problems = Vec::new();
    for (id, filter) in TEMPLATE.of_type("AWS::Logs::MetricFilter") {
        let transformations = filter["MetricTransformations"].as_array().unwrap();
        assert_eq!(transformations.len(), 1, "{id}: CloudWatch takes one");
        let field = transformations[0]["MetricValue"].as_str().unwrap().strip_prefix("$.").unwrap();
        let metric = format!("Cleanup{}", name_of(field));
        if transformations[0]["MetricName"] != metric.as_str() || *id != format!("{metric}Metric") {
            problems.push(format!("{id} counts {field}, which makes {metric}"));
        }
        let pattern = format!("{{ ($.target = \"pvm_events::cleanup\") && ($.{field} > 0) }}");
        if filter["FilterPattern"] != pattern.as_str() {
            problems.push(format!("{id}: the pattern should be {pattern}"));
        }
        assert_eq!(filter["LogGroupName"]["Ref"], "FunctionLogs", "{id}");
        found.insert(field.to_owned());
    }
    problems.extend(differences(("the counts", &fields()), ("the metric filters", &found)));
    super::none(problems);
}

#[test]
fn the_line_of_the_clean_up_has_a_field_for_every_count() {
    let source = text("functions/events/src/cleanup.rs");
    let missing =
        fields().into_iter().filter(|field| !source.contains(&format!("{field} = counts.{field},")));
    super::none(missing.map(|field| format!("functions/events/src/cleanup.rs logs no {field}")).collect());
}

#[test]
fn an_alarm_on_a_metric_of_ours_watches_one_that_there_is() {
    let metrics: BTreeSet<String> =
        fields().iter().map(|field| format!("Cleanup{}", name_of(field))).collect();
    let ours = |alarm: &Value| alarm["Namespace"]["Fn::Sub"] == "pvm/${AWS::StackName}";
    let alarms: Vec<_> =
        TEMPLATE.of_type("AWS::CloudWatch::Alarm").filter(|(_, alarm)| ours(alarm)).collect();
    assert!(!alarms.is_empty());
    let wrong = alarms.iter().filter(|(_, alarm)| !metrics.contains(alarm["MetricName"].as_str().unwrap()));
    super::none(wrong.map(|(id, _)| format!("{id} watches a metric that nobody makes")).collect());
}
