//! What the listeners show and ask clients for: given whole or not at all.

use std::path::PathBuf;

use millstream_transport::TcpSecurity;

use super::{
    origin::Origin,
    reader::{Form, Reader},
};

/// What the listeners show, and ask clients for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    /// None: a certificate of the broker's own making.
    pub(crate) own: Option<Own>,
    /// None: clients are not asked.
    pub(crate) clients: Option<Clients>,
}

/// The operator's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Own {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) ca: Option<PathBuf>,
}

/// Whose certificates clients may show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Clients {
    pub(crate) ca: PathBuf,
    pub(crate) required: bool,
}

/// Whether clients are asked for certificates; the words of Kafka's `ssl.client.auth`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientAuth {
    None,
    Requested,
    Required,
}

impl ClientAuth {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "requested" => Ok(Self::Requested),
            "required" => Ok(Self::Required),
            _ => Err("expected `none`, `requested` or `required`".to_owned()),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Requested => "requested",
            Self::Required => "required",
        }
    }
}

fn parse_tcp_tls(text: &str) -> Result<TcpSecurity, String> {
    match text {
        "on" => Ok(TcpSecurity::Tls),
        "off" => Ok(TcpSecurity::Plain),
        _ => Err("expected `on` or `off`".to_owned()),
    }
}

/// Takes all of these settings; what is wrong with them is in the reader's mistakes.
pub(super) fn take(reader: &mut Reader<'_>) -> (TcpSecurity, Tls) {
    let mistakes_before = reader.mistakes.clone();
    let tcp = reader.take("tcp-tls", Form::Text, parse_tcp_tls);
    let (tcp, tcp_at) = tcp.unwrap_or((TcpSecurity::Plain, Origin::Default));
    reader.note("tcp-tls", if tcp == TcpSecurity::Tls { "on" } else { "off" }, &tcp_at);
    let [certificate, key, ca, client_ca] =
        ["tls-cert", "tls-key", "tls-ca", "tls-client-ca"].map(|name| reader.take_path_or_none(name));
    // Whoever names a CA means to have it count.
    let default = if client_ca.is_some() { ClientAuth::Required } else { ClientAuth::None };
    let auth = reader.take("tls-client-auth", Form::Text, ClientAuth::parse);
    let (auth, auth_at) = auth.unwrap_or((default, Origin::Default));
    reader.note("tls-client-auth", auth.word(), &auth_at);
    // Of what is wrong by itself it cannot be said whether it fits.
    if reader.mistakes != mistakes_before {
        return (tcp, Tls::default());
    }

    let mut refuse = |at: Origin, text: &str| reader.mistakes.add(Some(at), text);
    let own = match (certificate, key, ca) {
        (Some((certificate, _)), Some((key, _)), ca) => Some(Own { certificate, key, ca: ca.map(|(ca, _)| ca) }),
        (None, None, None) => None,
        (None, None, Some((_, at))) => {
            refuse(at, "--tls-ca is the CA of the certificate in --tls-cert, which is not given");
            None
        }
        (Some((_, at)), None, _) | (None, Some((_, at)), _) => {
            refuse(at, "--tls-cert and --tls-key belong together: one of them is not given");
            None
        }
    };
    let clients = match (client_ca, auth) {
        (_, ClientAuth::None) => None,
        (None, _) => {
            refuse(
                auth_at,
                "--tls-client-auth asks clients for certificates: give --tls-client-ca FILE, the CAs that they must come from",
            );
            None
        }
        (Some((_, at)), ClientAuth::Required) if tcp == TcpSecurity::Plain => {
            refuse(
                at,
                "clients must show certificates (--tls-client-ca), but the TCP port, which is plain, would take anybody: give \
                 --tcp-tls on, or --tls-client-auth requested",
            );
            None
        }
        (Some((ca, _)), auth) => Some(Clients { ca, required: auth == ClientAuth::Required }),
    };
    (tcp, Tls { own, clients })
}
