//! Which fields rules may ask, and when a flow's values of them are known.

use gnomon_expression::Scope;
use gnomon_flow::field::{ATTRIBUTE_ID_FIRST, PAYLOAD8_DST, PAYLOAD8_SRC, TAGS};
use gnomon_flow::{Field, FieldId};

/// When a rule, or a field, can be decided. In this order: a rule waits for the latest of its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum When {
    /// With the flow's first packet, once.
    FirstPacket,
    /// When the field gets a value, if it does.
    Metadata,
}

impl When {
    pub fn name(self) -> &'static str {
        match self {
            When::FirstPacket => "with the first packet",
            When::Metadata => "when its metadata comes",
        }
    }
}

/// What rules may ask.
pub const RULES: Scope = Scope { refuse: |field| when(field).err(), relative_times: false };

/// When values of `field` are known at the agent.
///
/// # Errors
/// Why they are not, or not in time for a rule.
pub fn when(field: &'static Field) -> Result<When, &'static str> {
    match field.id {
        TAGS => Err("tags are what rules give"),
        PAYLOAD8_SRC | PAYLOAD8_DST => Err("it is read off when the record is made"),
        // country, asn, oui: looked up where records come together; alerts are joined there.
        FieldId(92..=94 | 1930..=1935 | 1940..=1945) => Err("only the collector knows it"),
        FieldId(id) if id >= ATTRIBUTE_ID_FIRST => Ok(When::Metadata),
        // node, node.id, interface
        FieldId(2..=4) => Ok(When::FirstPacket),
        // Addresses, ports, protocol, EtherType, VLAN ids.
        FieldId(20..=29) => Ok(When::FirstPacket),
        FieldId(30..=32) => Err("the other side's address is not known with the first packet"),
        // icmp.type, icmp.code, communityId, direction.guessed, own_uplink
        FieldId(72 | 73 | 80 | 83 | 87) => Ok(When::FirstPacket),
        // outerip, outermac: of attributes.
        FieldId(90 | 91) => Ok(When::Metadata),
        FieldId(1 | 5 | 81) => Err("it names one record or one run of the agent"),
        FieldId(10 | 11 | 13..=17) => Err("only the collector knows it"),
        FieldId(12 | 40..=71 | 74 | 75 | 82 | 84..=86) => {
            Err("it changes with every packet; rules ask what a flow is, not how much of it there was")
        }
        _ => Err("the agent does not know it"),
    }
}

#[cfg(test)]
mod tests {
    use gnomon_flow::{FIELDS, field};

    use super::*;

    #[test]
    fn every_field_is_placed() {
        let unplaced: Vec<_> = FIELDS
            .iter()
            .filter(|field| when(field) == Err("the agent does not know it"))
            .map(|field| field.name)
            .collect();
        assert_eq!(unplaced, [""; 0], "say in `when` whether rules can ask it");
        for (name, expected) in [
            ("ip.src", Some(When::FirstPacket)),
            ("vlan", Some(When::FirstPacket)),
            ("interface", Some(When::FirstPacket)),
            ("tls.host", Some(When::Metadata)),
            ("outerip", Some(When::Metadata)),
            ("vni", Some(When::Metadata)),
            ("starttime", None),
            ("ingesttime", None),
            ("country.dst", None),
            ("alert.signature", None),
            ("session.length", None),
            ("bytes", None),
            ("tags", None),
            ("mac.src", None),
        ] {
            let field = field::by_name(name).unwrap();
            assert_eq!(when(field).ok(), expected, "{name}");
        }
    }
}
