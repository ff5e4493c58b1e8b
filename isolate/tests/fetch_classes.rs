//! Request and Response behave as the Fetch standard and the Workers platform say.

mod support;

use atoll_isolate::Outcome;
use http::Request;
use support::{body, load, on_isolate_thread, text};

/// Expressions of a handler with `request`, a POST of "sent" with a content type, and what they must give. What is
/// thrown gives its text.
const EXPRESSIONS: &[(&str, &str)] = &[
    // Responses: defaults and bodies.
    ("new Response().status + new Response().statusText + new Response().type", "200default"),
    (
        "new Response().body === null && new Response(null).body === null && !new Response().bodyUsed",
        "true",
    ),
    ("await new Response().text()", ""),
    ("await new Response('text').text()", "text"),
    ("new Response('text').headers.get('content-type')", "text/plain;charset=UTF-8"),
    ("[...new Response('text').headers].join()", "content-type,text/plain;charset=UTF-8"),
    ("new Response(new Uint8Array([104, 105])).headers.get('content-type')", "null"),
    ("await new Response(new Uint8Array([104, 105])).text()", "hi"),
    (
        "await new Response(new Blob(['b'], { type: 'a/b' })).blob().then((b) => b.type + b.size)",
        "a/b1",
    ),
    (
        "new Response(new URLSearchParams('a=1')).headers.get('content-type')",
        "application/x-www-form-urlencoded;charset=UTF-8",
    ),
    ("await new Response(new URLSearchParams('a=1')).formData().then((f) => f.get('a'))", "1"),
    (
        "new Response(12).headers.get('content-type') + await new Response(12).text()",
        "text/plain;charset=UTF-812",
    ),
    ("(await Array.fromAsync(new Response('chunk').body))[0].length", "5"),
    ("await new Response(new Response('again').body).text()", "again"),
    // Responses: init.
    (
        "new Response('x', { headers: { 'content-type': 'a/b' } }).headers.get('Content-Type')",
        "a/b",
    ),
    ("new Response('x', { headers: [['x-a', '1'], ['x-a', '2']] }).headers.get('x-a')", "1, 2"),
    (
        "new Response('x', { headers: { 'x-a': '1' } }).headers.get('content-type')",
        "text/plain;charset=UTF-8",
    ),
    ("new Response(null, { status: 404, statusText: 'Gone fishing' }).statusText", "Gone fishing"),
    ("new Response('x', new Response('y', { status: 201, headers: { a: 'b' } })).status", "201"),
    (
        "new Response('x', new Response('y', { status: 201, headers: { a: 'b' } })).headers.get('a')",
        "b",
    ),
    (
        "new Response('x', { status: 199 })",
        "RangeError: The status provided (199) is not equal to 101 and outside the range [200, 599]",
    ),
    (
        "new Response('x', { status: 204 })",
        "TypeError: Response with null body status cannot have body",
    ),
    ("new Response(null, { status: 204 }).ok", "true"),
    ("new Response(null, { statusText: 'a\\nb' })", "TypeError: Invalid status text: \"a\nb\""),
    (
        "new Response('x', 5)",
        "TypeError: Failed to construct 'Response': Argument 2 can not be converted to a dictionary",
    ),
    ("new Response('x', null).status", "200"),
    // Responses: statics.
    ("await Response.json({ a: [1] }).text()", "{\"a\":[1]}"),
    ("Response.json(1).headers.get('content-type')", "application/json"),
    (
        "Response.json(1, { status: 201, headers: { 'content-type': 'x/y' } }).headers.get('content-type')",
        "x/y",
    ),
    ("Response.json(1, { status: 201 }).status", "201"),
    ("Response.json(undefined)", "TypeError: Value is not JSON serializable"),
    (
        "Response.redirect('http://b.test/x').headers.get('location') + Response.redirect('http://b.test/x', 307).status",
        "http://b.test/x307",
    ),
    ("Response.redirect('http://b.test/x', 200)", "RangeError: Invalid redirect status code: 200"),
    (
        "Response.redirect('http://b.test/x').headers.set('a', 'b')",
        "TypeError: Cannot change headers: headers are immutable",
    ),
    ("Response.error().type + Response.error().status", "error0"),
    // Responses: use and copies.
    ("(r => { r.text(); return r.bodyUsed; })(new Response('x'))", "true"),
    (
        "await (async r => { await r.text(); return await r.text(); })(new Response('x'))",
        "TypeError: Body already consumed",
    ),
    (
        "await (async r => { const c = r.clone(); return await r.text() + await c.text(); })(new Response('x'))",
        "xx",
    ),
    (
        "(r => { r.headers.set('a', '1'); const c = r.clone(); c.headers.set('a', '2'); return r.headers.get('a') + c.headers.get('a'); })(new Response('x'))",
        "12",
    ),
    (
        "await (async r => { await r.text(); return r.clone(); })(new Response('x'))",
        "TypeError: Body is unusable",
    ),
    ("new Response('x').clone().headers.get('content-type')", "text/plain;charset=UTF-8"),
    ("new Response('x').url + new Response('x').redirected", "false"),
    // The classes themselves.
    (
        "Object.prototype.toString.call(new Response()) + Object.prototype.toString.call(request)",
        "[object Response][object Request]",
    ),
    ("Object.getOwnPropertySymbols(new Response('x')).length + Object.keys(request).length", "0"),
    (
        "class Own extends Response {}; const own = new Own('x'); return own instanceof Response && own.constructor === Own",
        "true",
    ),
    (
        "Response.prototype.clone.call({})",
        "TypeError: Cannot read private member #state from an object whose class did not declare it",
    ),
    (
        "await Response.prototype.text.call(Object.create(Response.prototype))",
        "TypeError: Cannot read private member #state from an object whose class did not declare it",
    ),
    ("Response.length + ' ' + Request.length + ' ' + Response.name", "0 1 Response"),
    // Requests that came in.
    ("request.method + request.url", "POSThttp://a.test/path?q"),
    ("request.headers.get('content-type') + request.headers.get('nothing')", "text/plainnull"),
    ("request.headers.set('a', 'b')", "TypeError: Cannot change headers: headers are immutable"),
    (
        "request.redirect + request.mode + request.cache + request.credentials + request.referrer",
        "followcorsdefaultsame-originabout:client",
    ),
    ("await request.text() + request.bodyUsed", "senttrue"),
    ("(await Array.fromAsync(request.body)).length", "1"),
    ("await request.clone().text() + await request.text()", "sentsent"),
    ("request.signal.aborted + ' ' + (request.signal === request.signal)", "false true"),
    ("request.cf.country + (request.cf === request.cf)", "DEtrue"),
    // Requests that a worker makes.
    ("new Request('http://b.test')", "ok:[object Request]"),
    ("new Request('http://b.test').url + new Request('http://b.test').method", "http://b.test/GET"),
    (
        "new Request()",
        "TypeError: Failed to construct 'Request': 1 argument required, but only 0 present",
    ),
    ("new Request('nothing')", "TypeError: Invalid URL: 'nothing'"),
    ("new Request('http://b.test', { method: 'put', body: 'x' }).method", "PUT"),
    ("new Request('http://b.test', { method: 'patch' }).method", "patch"),
    ("new Request('http://b.test', { method: 'TRACE' })", "TypeError: Method is forbidden"),
    ("new Request('http://b.test', { method: 'a b' })", "TypeError: Method is not valid"),
    (
        "new Request('http://b.test', { body: 'x' })",
        "TypeError: Request with GET/HEAD method cannot have body",
    ),
    ("await new Request('http://b.test', { method: 'POST', body: 'x' }).text()", "x"),
    (
        "new Request('http://b.test', { method: 'POST', body: 'x' }).headers.get('content-type')",
        "text/plain;charset=UTF-8",
    ),
    ("new Request('http://b.test', { headers: { a: 'b' } }).headers.get('a')", "b"),
    (
        "(r => { r.headers.set('a', 'b'); return r.headers.get('a'); })(new Request('http://b.test'))",
        "b",
    ),
    ("new Request('http://b.test', { redirect: 'manual' }).redirect", "manual"),
    (
        "new Request('http://b.test', { redirect: 'sometimes' })",
        "TypeError: Failed to construct 'Request': The provided value 'sometimes' is not a valid enum value of type RequestRedirect",
    ),
    (
        "new Request('http://b.test', { mode: 'navigate' })",
        "TypeError: Request mode 'navigate' is not allowed",
    ),
    (
        "new Request('http://b.test', { cache: 'only-if-cached' })",
        "TypeError: Request cache mode \"only-if-cached\" can only be used with same-origin mode",
    ),
    ("new Request('http://b.test', { referrer: 'http://c.test' }).referrer", "http://c.test/"),
    ("new Request('http://b.test', { cf: { cacheTtl: 5 } }).cf.cacheTtl", "5"),
    // Requests made of requests.
    ("await (async (r) => r.method + await r.text())(new Request(request))", "POSTsent"),
    ("(r => request.bodyUsed)(new Request(request))", "true"),
    (
        "new Request('http://b.test', request).url + await new Request('http://b.test', request).text()",
        "http://b.test/sent",
    ),
    (
        "(r => r.headers.get('content-type') + r.headers.get('x'))(new Request(request, { headers: { x: 'y' } }))",
        "nully",
    ),
    (
        "(r => { r.headers.set('a', 'b'); return r.headers.get('a') + request.headers.get('a'); })(new Request(request))",
        "bnull",
    ),
    (
        "new Request(request, { method: 'GET' })",
        "TypeError: Request with GET/HEAD method cannot have body",
    ),
    ("new Request(request).cf.country", "DE"),
    (
        "await (async () => { await request.text(); return new Request(request); })()",
        "TypeError: Input request's body is unusable",
    ),
    (
        "(c => { const r = new Request(request, { signal: c.signal }); c.abort(); return r.signal.aborted + '' + request.signal.aborted; })(new AbortController())",
        "truefalse",
    ),
    (
        "(r => { const c = r.clone(); c.headers.set('a', 'b'); return c.headers.get('a') + r.headers.get('a'); })(new Request('http://b.test'))",
        "bnull",
    ),
];

#[test]
fn expressions_give_what_they_should() {
    on_isolate_thread(|thread| async move {
        let cases: Vec<String> = EXPRESSIONS
            .iter()
            .map(|(code, _)| match code.contains("return own") {
                true => format!("async (request) => {{ {code}; }}"),
                false => format!("async (request) => ({code})"),
            })
            .collect();
        let source = format!(
            "const cases = [{}];
             export default {{ async fetch(request) {{
               let value;
               try {{ value = await cases[request.headers.get('x-case')](request); }}
               catch (error) {{ return new Response(`${{error.name}}: ${{error.message}}`); }}
               return new Response(value instanceof Request ? 'ok:' + value : String(value));
             }} }};",
            cases.join(",\n")
        );
        let worker = load(&thread, &source).await;
        let mut wrong = Vec::new();
        for (case, (code, expected)) in EXPRESSIONS.iter().enumerate() {
            let request = Request::post("http://a.test/path?q")
                .header("content-type", "text/plain")
                .header("x-case", case)
                .body(body("sent"))
                .unwrap();
            let given = text(worker.request(request).await.unwrap()).await;
            if given != *expected {
                wrong.push(format!("{code}\n  gives    {given}\n  expected {expected}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}

/// A response is sent once, whatever it was made of.
#[test]
fn a_response_is_sent_once() {
    on_isolate_thread(|thread| async move {
        let source = "const kept = { text: new Response('x'), json: Response.json(1), empty: new Response() };
             export default { fetch: (request) => kept[new URL(request.url).pathname.slice(1)] };";
        for (kind, expected) in [("text", "x"), ("json", "1")] {
            let worker = load(&thread, source).await;
            let url = format!("http://a.test/{kind}");
            assert_eq!(worker.get(&url).await, expected);
            let failure = worker.get_failure(&url).await;
            assert_eq!(failure.outcome, Outcome::Exception);
            assert!(failure.exception.message.contains("already been used"), "{failure:?}");
        }
        let worker = load(&thread, source).await;
        for _ in 0..2 {
            assert_eq!(worker.get("http://a.test/empty").await, "");
        }
    });
}
