//! What hostile scripts try: each attempt ends in a documented way, and neighbours on the thread never notice.

mod support;

use atoll_isolate::{ModuleKind, Script, ScriptFormat};
use support::{Setup, load, module, on_isolate_thread};

/// The bytes of a module that exports `add`.
const WASM: &[u8] = b"\0asm\x01\0\0\0\x01\x07\x01\x60\x02\x7f\x7f\x01\x7f\x03\x02\x01\0\x07\x07\x01\x03add\0\0\x0a\x09\x01\x07\0\x20\0\x20\x01\x6a\x0b";

const URL: &str = "http://a.test/";

/// A worker that answers with what an expression gives, or with the error that it throws.
fn answering(expression: &str) -> String {
    format!(
        "export default {{ async fetch(request, env, ctx) {{ \
           try {{ return new Response(String(await ({expression}))); }} \
           catch (error) {{ return new Response(`${{error.name}}`); }} }} }};"
    )
}

/// Each expression's value, in an instance of its own.
fn check(cases: &'static [(&'static str, &'static str)]) {
    on_isolate_thread(move |thread| async move {
        for (expression, expected) in cases {
            let worker = load(&thread, &answering(expression)).await;
            assert_eq!(worker.get(URL).await, *expected, "{expression}");
        }
    });
}

#[test]
fn time_stands_still_while_code_runs() {
    check(&[
        (
            "(() => { const at = Date.now(); for (let i = 0; i < 3e6; i++) Math.sqrt(i); return Date.now() - at; })()",
            "0",
        ),
        ("new Date().getTime() - Date.now()", "0"),
        ("Reflect.construct(Date, []).getTime() - Date.now()", "0"),
        ("performance.timeOrigin + performance.now() - Date.now()", "0"),
        ("new File([], 'a').lastModified - Date.now()", "0"),
        (
            "new Intl.DateTimeFormat('en', { fractionalSecondDigits: 3 }).format() === \
             new Intl.DateTimeFormat('en', { fractionalSecondDigits: 3 }).format(Date.now())",
            "true",
        ),
        (
            "JSON.stringify(new Intl.DateTimeFormat('en', { timeStyle: 'full' }).formatToParts()) === \
             JSON.stringify(new Intl.DateTimeFormat('en', { timeStyle: 'full' }).formatToParts(Date.now()))",
            "true",
        ),
        ("Date() === new Date().toString()", "true"),
        (
            "(async () => { const at = Date.now(); await scheduler.wait(20); return Date.now() - at >= 19; })()",
            "true",
        ),
        (
            "(async () => { const at = Date.now(); for (let i = 0; i < 1e4; i++) await null; return Date.now() - at; })()",
            "0",
        ),
        ("Date.now() > 1.7e12 && Number.isInteger(Date.now())", "true"),
        ("typeof Temporal", "undefined"),
    ]);
}

#[test]
fn a_frozen_date_is_a_date() {
    check(&[
        ("Date.prototype.constructor === Date && new Date() instanceof Date", "true"),
        ("Object.prototype.toString.call(new Date())", "[object Date]"),
        (
            "[Date.name, Date.length, Object.keys(Date).length, typeof Date.UTC].join()",
            "Date,7,0,function",
        ),
        (
            "new Date(2020, 0, 2).getDate() + new Date('2020-05-06T00:00:00Z').getTime()",
            "1588723200002",
        ),
        ("new Date(undefined).getTime()", "NaN"),
        ("new Date(new Date(5)).getTime()", "5"),
        (
            "(() => { class Day extends Date { get year() { return this.getUTCFullYear(); } } \
             const day = new Day(0); return [day.year, day instanceof Day, day instanceof Date].join(); })()",
            "1970,true,true",
        ),
        ("structuredClone(new Date(7)) instanceof Date", "true"),
        ("Object.getPrototypeOf(Date) === Function.prototype", "true"),
        ("new Date().constructor.now === Date.now", "true"),
    ]);
}

#[test]
fn start_up_sees_one_time() {
    on_isolate_thread(|thread| async move {
        let source = "const a = Date.now(); for (let i = 0; i < 3e6; i++) Math.sqrt(i); const b = Date.now(); \
            export default { fetch: () => new Response(`${b - a} ${a > 1.7e12} ${Date.now() >= a}`) };";
        assert_eq!(load(&thread, source).await.get(URL).await, "0 true true");
    });
}

/// Code comes from the script alone: strings never become code, and bytes only until the script has started.
#[test]
fn code_is_made_at_start_up_or_never() {
    on_isolate_thread(|thread| async move {
        let bytes = format!("new Uint8Array({WASM:?})");
        let source = format!(
            "import wasm from './add.wasm';
             const early = await WebAssembly.instantiate({bytes});
             const tried = [];
             const attempt = async (name, make) => {{
               try {{ await make(); tried.push(name); }} catch (e) {{ tried.push(`${{name}} ${{e.name}}`); }}
             }};
             try {{ eval('1'); tried.push('early eval'); }} catch (e) {{ tried.push(`early eval ${{e.name}}`); }}
             export default {{ async fetch() {{
               await attempt('eval', () => (0, eval)('1'));
               await attempt('Function', () => new Function('return 1'));
               await attempt('generator', () => Object.getPrototypeOf(function* () {{}}).constructor('yield 1'));
               await attempt('async', () => Object.getPrototypeOf(async () => {{}}).constructor('1'));
               await attempt('Module', () => new WebAssembly.Module({bytes}));
               await attempt('compile', () => WebAssembly.compile({bytes}));
               await attempt('instantiate', () => WebAssembly.instantiate({bytes}));
               const late = (await import('./late.wasm')).default;
               const sums = [early.instance, new WebAssembly.Instance(wasm), await WebAssembly.instantiate(late)]
                 .map(({{ exports }}) => exports.add(2, 3));
               return new Response(`${{tried.join()}} ${{sums}} ${{WebAssembly.validate({bytes})}}`);
             }} }};"
        );
        let modules = vec![
            module("index.js", ModuleKind::EsModule, source),
            module("add.wasm", ModuleKind::Wasm, WASM),
            module("late.wasm", ModuleKind::Wasm, WASM),
        ];
        let setup = Setup::new(Script::new(ScriptFormat::Modules, "index.js", modules));
        let worker = setup.load(&thread).await.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(
            worker.get(URL).await,
            "early eval EvalError,eval EvalError,Function EvalError,generator EvalError,async EvalError,\
             Module CompileError,compile CompileError,instantiate CompileError 5,5,5 true"
        );
    });
}

#[test]
fn there_is_no_shared_memory() {
    check(&[
        ("typeof SharedArrayBuffer", "undefined"),
        ("'SharedArrayBuffer' in globalThis", "false"),
        ("typeof Atomics.wait + typeof Atomics.waitAsync", "undefinedundefined"),
        ("Atomics.add(new Int32Array(2), 0, 5)", "0"),
        (
            "new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true }).buffer.constructor === Object",
            "true",
        ),
    ]);
}
