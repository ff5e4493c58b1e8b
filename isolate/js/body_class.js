// What Request and Response have the same: the body mixin of the Fetch standard, how they are shown, and copies
// of header lists.
(function () {
const { core, primordials } = __bootstrap;
const { ArrayPrototypeMap, ObjectDefineProperties, Symbol, SymbolFor } = primordials;
const webidl = core.loadExtScript("ext:deno_webidl/00_webidl.js");
const { createFilteredInspectProxy } = core.loadExtScript("ext:deno_web/01_console.js");
const { extractMimeType } = core.loadExtScript("ext:deno_web/01_mimesniff.js");
const { markNotSerializable } = core.loadExtScript("ext:deno_web/13_message_port.js");
const { mixinBody } = core.loadExtScript("ext:deno_fetch/22_body.js");
const { getDecodeSplitHeader } = core.loadExtScript("ext:deno_fetch/20_headers.js");

const _body = Symbol("body");
const _mimeType = Symbol("mime type");

function hidden(descriptor) {
  return { __proto__: null, configurable: true, enumerable: false, ...descriptor };
}

// Finishes a class with a body. `bodyOf` and `listOf` give an object's body and header list, `isOne` says whether
// something is such an object, and `shown` names the properties that inspection shows.
function finishBodyClass(Class, bodyOf, listOf, isOne, shown) {
  const { prototype } = Class;
  webidl.configureInterface(Class);
  ObjectDefineProperties(prototype, {
    [_body]: hidden({
      get() {
        return bodyOf(this);
      },
    }),
    [_mimeType]: hidden({
      get() {
        return extractMimeType(getDecodeSplitHeader(listOf(this), "Content-Type"));
      },
    }),
    [SymbolFor("Deno.privateCustomInspect")]: hidden({
      writable: true,
      value(inspect, inspectOptions) {
        return inspect(
          createFilteredInspectProxy({ object: this, evaluate: isOne(this), keys: shown }),
          inspectOptions,
        );
      },
    }),
    // What the mixin asks of every object that it is called on; the private field is what nobody can make up.
    [webidl.brand]: { __proto__: null, value: webidl.brand },
  });
  markNotSerializable(prototype);
  mixinBody(prototype, _body, _mimeType);
  webidl.converters[Class.name] = webidl.createInterfaceConverter(Class.name, prototype);
}

function copyList(list) {
  return ArrayPrototypeMap(list, (header) => [header[0], header[1]]);
}

return { copyList, finishBodyClass };
})();
