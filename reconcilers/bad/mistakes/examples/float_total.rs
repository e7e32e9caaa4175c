//! Readings by sensor, with their total kept beside them.
//!
//! It looks right because each sensor counts once, the larger reading of two, and
//! adding is commutative. But adding floats is not associative: the total is
//! summed in the order of arrival, and its last digit tells.

#[forbid(unsafe_code)]
pub mod merge {
    use std::collections::BTreeMap;

    use kinfold_mistakes::{Outcome, Sibling, drawn, parse, values, written};
    use serde::{Deserialize, Serialize};

    #[derive(Default, Serialize, Deserialize)]
    struct Meter {
        readings: BTreeMap<String, f64>,
        #[serde(default)]
        total: f64,
    }

    pub fn fold(siblings: &[Sibling]) -> Result<Outcome, String> {
        let mut meter = Meter::default();
        let mut arrived: Vec<String> = Vec::new();
        for value in values(siblings) {
            let other: Meter = parse(value, "readings by sensor")?;
            for (sensor, reading) in other.readings {
                let known = meter.readings.entry(sensor.clone()).or_insert(reading);
                *known = known.max(reading);
                if !arrived.contains(&sensor) {
                    arrived.push(sensor);
                }
            }
        }
        meter.total = arrived.iter().map(|sensor| meter.readings[sensor]).sum();
        Ok(written(&meter))
    }

    pub fn samples(seed: u64, count: u32) -> Vec<Vec<u8>> {
        let meters = [
            r#"{"readings":{"a":0.1},"total":0.1}"#,
            r#"{"readings":{"b":0.2},"total":0.2}"#,
            r#"{"readings":{"c":0.3},"total":0.3}"#,
            r#"{"readings":{"d":0.7},"total":0.7}"#,
        ];
        drawn(seed, count, &meters)
    }
}

kinfold_mistakes::mistake!("Keeps readings and their total");
