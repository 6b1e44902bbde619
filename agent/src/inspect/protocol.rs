//! The protocols that are recognised, by the names in the field `protocols` (Arkime's where it has them).

macro_rules! protocols {
    ($($variant:ident $name:literal,)*) => {
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub(super) enum Protocol {
            #[default]
            Unknown,
            $($variant,)*
        }

        impl Protocol {
            pub(super) fn name(self) -> Option<&'static str> {
                match self {
                    Protocol::Unknown => None,
                    $(Protocol::$variant => Some($name),)*
                }
            }
        }
    };
}

protocols! {
    Bgp "bgp",
    BitTorrent "bittorrent",
    Dcerpc "dcerpc",
    Dhcp "dhcp",
    Dhcpv6 "dhcpv6",
    Dns "dns",
    Dtls "dtls",
    Ftp "ftp",
    Http "http",
    Http2 "http2",
    Imap "imap",
    Irc "irc",
    Isakmp "isakmp",
    Jabber "jabber",
    Krb5 "krb5",
    Ldap "ldap",
    Llmnr "llmnr",
    Mdns "mdns",
    Memcached "memcached",
    Mongodb "mongodb",
    Mqtt "mqtt",
    Mysql "mysql",
    Nbns "nbns",
    Ntp "ntp",
    Pop3 "pop3",
    Postgresql "postgresql",
    Quic "quic",
    Radius "radius",
    Rdp "rdp",
    Redis "redis",
    Rsync "rsync",
    Rtsp "rtsp",
    Sip "sip",
    Smb "smb",
    Smtp "smtp",
    Snmp "snmp",
    Socks "socks",
    Ssdp "ssdp",
    Ssh "ssh",
    Stun "stun",
    Syslog "syslog",
    Tds "tds",
    Telnet "telnet",
    Tftp "tftp",
    Thrift "thrift",
    Tls "tls",
    Vnc "vnc",
    Websocket "websocket",
    Wireguard "wireguard",
    X11 "x11",
}
