//! Which certificates of address discovery this host trusts: those whose hash a member's record or
//! a token names. Relays come and go while the endpoint is bound, so the set is shared and changes.
//! Names and dates in a certificate mean nothing here.

use std::{
    collections::HashSet,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use iroh::tls::CaTlsConfig;
use proto::{facts::Fact, id::Digest, reachability::fallback::BY_AUTHORITY};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::sync::broadcast;

/// The trusted hashes; cheap to clone, shared with every TLS client of the endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Pins {
    trusted: Arc<RwLock<HashSet<Digest>>>,
    refused: Arc<RwLock<HashSet<Digest>>>,
    shown: Arc<AtomicBool>,
    facts: broadcast::Sender<Fact>,
}

/// Refused certificates that are told once each; beyond this many, an attacker writes the list.
const MAX_REFUSED: usize = 64;

impl Pins {
    pub(crate) fn new(facts: broadcast::Sender<Fact>) -> Pins {
        Pins { trusted: Arc::default(), refused: Arc::default(), shown: Arc::default(), facts }
    }

    /// Trusts exactly these from now on.
    pub(crate) fn set(&self, hashes: impl IntoIterator<Item = Digest>) {
        let mut trusted = self.trusted.write().unwrap_or_else(PoisonError::into_inner);
        *trusted = hashes.into_iter().collect();
    }

    /// Gives the TLS configuration that asks these pins.
    pub(crate) fn tls(&self) -> CaTlsConfig {
        let pins = self.clone();
        CaTlsConfig::custom_server_cert_verifier(Arc::new(move |provider| {
            let authority = CaTlsConfig::embedded().server_cert_verifier(provider.clone())?;
            Ok(Arc::new(Verifier { pins: pins.clone(), provider, authority }) as Arc<dyn ServerCertVerifier>)
        }))
    }

    /// Tells whether there are relays that the public authorities vouch for.
    fn asks_authority(&self) -> bool {
        self.trusted.read().unwrap_or_else(PoisonError::into_inner).contains(&BY_AUTHORITY)
    }

    /// Tells whether a trusted certificate was ever shown.
    pub(crate) fn was_shown(&self) -> bool {
        self.shown.load(Ordering::Relaxed)
    }

    fn trusts(&self, certificate: &[u8]) -> bool {
        let shown = Digest::of(certificate);
        if self.trusted.read().unwrap_or_else(PoisonError::into_inner).contains(&shown) {
            self.shown.store(true, Ordering::Relaxed);
            return true;
        }
        let mut refused = self.refused.write().unwrap_or_else(PoisonError::into_inner);
        if refused.len() < MAX_REFUSED && refused.insert(shown) {
            // Nobody may be listening; a fact is news, not state.
            self.facts.send(Fact::RelayCertificateDiffers { shown: shown.short() }).ok();
        }
        false
    }
}

#[derive(Debug)]
struct Verifier {
    pins: Pins,
    provider: Arc<CryptoProvider>,
    /// Who vouches for relays of strangers.
    authority: Arc<dyn ServerCertVerifier>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // One of a member has no name: no authority vouches for an address of ours.
        if self.pins.asks_authority() && matches!(name, ServerName::DnsName(_)) {
            let vouched = self.authority.verify_server_cert(certificate, between, name, ocsp, now);
            if vouched.is_ok() {
                return vouched;
            }
        }
        match self.pins.trusts(certificate.as_ref()) {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
