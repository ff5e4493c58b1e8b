//! What `crypto.subtle` may cost, which it computes where no watchdog looks.

mod support;

use support::{load, on_isolate_thread};

/// Each expression's value, or the name of what it throws.
fn check(cases: &'static [(&'static str, &'static str)]) {
    on_isolate_thread(move |thread| async move {
        for (expression, expected) in cases {
            let worker = load(
                &thread,
                &format!(
                    "const {{ subtle }} = crypto; const bytes = (n) => new Uint8Array(n);
                    const hex = (b) => Array.from(new Uint8Array(b), (x) => x.toString(16).padStart(2, '0')).join('');
                    const password = () => subtle.importKey('raw', bytes(8), 'PBKDF2', false, ['deriveBits', 'deriveKey']);
                    const pbkdf2 = (iterations) => ({{ name: 'PBKDF2', hash: 'SHA-256', salt: bytes(8), iterations }});
                    const rsa = (modulusLength, exponent = [1, 0, 1]) => subtle.generateKey(
                      {{ name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256', modulusLength, publicExponent: new Uint8Array(exponent) }},
                      true, ['sign', 'verify']);
                    export default {{ async fetch() {{
                      try {{ return new Response(String(await ({expression}))); }}
                      catch (error) {{ return new Response(error.name); }} }} }};"
                ),
            )
            .await;
            assert_eq!(worker.get("http://a.test/").await, *expected, "{expression}");
        }
    });
}

#[test]
fn what_one_job_costs_is_bounded() {
    check(&[
        (
            "subtle.deriveBits(pbkdf2(100), await password(), 256).then((bits) => bits.byteLength)",
            "32",
        ),
        ("subtle.deriveBits(pbkdf2(100_001), await password(), 256)", "NotSupportedError"),
        ("subtle.deriveBits(pbkdf2('1e9'), await password(), 256)", "NotSupportedError"),
        (
            "(async () => { let read = 0; const trap = { name: 'PBKDF2', hash: 'SHA-256', salt: bytes(8), \
               get iterations() { return read++ ? 1e9 : 10; } }; \
               return (await subtle.deriveBits(trap, await password(), 256)).byteLength + ' ' + read; })()",
            "32 1",
        ),
        (
            "subtle.deriveKey(pbkdf2(1e9), await password(), { name: 'AES-GCM', length: 256 }, true, ['encrypt'])",
            "NotSupportedError",
        ),
        (
            "subtle.deriveKey(pbkdf2(10), await password(), { name: 'AES-GCM', length: 256 }, true, ['encrypt'])\
             .then((key) => key.algorithm.length)",
            "256",
        ),
        ("rsa(16_384)", "NotSupportedError"),
        ("rsa(1_024, [2])", "NotSupportedError"),
        ("rsa(1_024).then((pair) => pair.publicKey.algorithm.modulusLength)", "1024"),
        (
            "subtle.importKey('jwk', { kty: 'RSA', n: 'v'.repeat(1_366), e: 'AQAB' }, \
             { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' }, true, ['verify'])",
            "NotSupportedError",
        ),
        (
            "subtle.generateKey({ name: 'HMAC', hash: 'SHA-256', length: 2 ** 31 }, true, ['sign'])",
            "NotSupportedError",
        ),
    ]);
}

#[test]
fn jobs_wait_in_line_and_see_what_they_were_given() {
    check(&[
        (
            "(async () => { const data = bytes(1); const digests = []; \
               for (let i = 0; i < 100; i++) { data[0] = i; digests.push(subtle.digest('SHA-256', data)); } \
               const alone = []; \
               for (let i = 0; i < 100; i++) alone.push(await subtle.digest('SHA-256', new Uint8Array([i]))); \
               return (await Promise.all(digests)).map(hex).join() === alone.map(hex).join(); })()",
            "true",
        ),
        (
            "(async () => { const jobs = Array.from({ length: 20 }, () => subtle.digest('nonsense', bytes(1))); \
               const ends = await Promise.allSettled(jobs); \
               return ends.every((end) => end.status === 'rejected') \
                 && hex(await subtle.digest({ name: 'SHA-1' }, bytes(0))); })()",
            "da39a3ee5e6b4b0d3255bfef95601890afd80709",
        ),
        (
            "(async () => { const { publicKey, privateKey } = await rsa(1_024); \
               const signed = await subtle.sign('RSASSA-PKCS1-v1_5', privateKey, bytes(3)); \
               return subtle.verify('RSASSA-PKCS1-v1_5', publicKey, signed, bytes(3)); })()",
            "true",
        ),
        (
            "(async () => { const key = await subtle.generateKey({ name: 'AES-GCM', length: 128 }, true, ['encrypt', 'decrypt']); \
               const algorithm = { name: 'AES-GCM', iv: bytes(12), additionalData: bytes(2), tagLength: 128 }; \
               const secret = await subtle.encrypt(algorithm, key, new Uint8Array([1, 2])); \
               return hex(await subtle.decrypt(algorithm, key, secret)); })()",
            "0102",
        ),
        ("crypto.subtle.deriveBits.length + ' ' + crypto.subtle.digest.name", "2 digest"),
    ]);
}
