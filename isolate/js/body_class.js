// What Request and Response have the same: the body mixin of the Fetch standard, how they are shown, and copies
// of header lists.
// https://fetch.spec.whatwg.org/#body-mixin
(function () {
const { core, primordials } = __bootstrap;
const {
  ArrayPrototypeMap,
  JSONParse,
  ObjectDefineProperties,
  ObjectDefineProperty,
  SymbolFor,
  TypeError,
  TypedArrayPrototypeGetBuffer,
  Uint8Array,
} = primordials;
const webidl = core.loadExtScript("ext:deno_webidl/00_webidl.js");
const { createFilteredInspectProxy } = core.loadExtScript("ext:deno_web/01_console.js");
const { essence, extractMimeType, serializeMimeType } = core.loadExtScript("ext:deno_web/01_mimesniff.js");
const { parseUrlEncoded } = core.loadExtScript("ext:deno_web/00_url.js");
const { getDecodeSplitHeader } = core.loadExtScript("ext:deno_fetch/20_headers.js");
const { toBytes, toText } = core.loadExtScript("ext:atoll/body.js");

function hidden(descriptor) {
  return { __proto__: null, configurable: true, enumerable: false, ...descriptor };
}

function mimeTypeOf(list) {
  return extractMimeType(getDecodeSplitHeader(list, "Content-Type"));
}

function formDataOf(data, mimeType) {
  if (mimeType === null) throw new TypeError("Missing content type");
  const { formDataFromEntries, parseFormData } = core.loadExtScript("ext:deno_fetch/21_formdata.js");
  switch (essence(mimeType)) {
    case "multipart/form-data": {
      const boundary = mimeType.parameters.get("boundary");
      if (boundary === null) {
        throw new TypeError(
          "Cannot turn into form data: missing boundary parameter in mime type of multipart form data",
        );
      }
      return parseFormData(toBytes(data), boundary);
    }
    case "application/x-www-form-urlencoded":
      return formDataFromEntries(
        ArrayPrototypeMap(parseUrlEncoded(toBytes(data)), (pair) => ({ name: pair[0], value: pair[1] })),
      );
    default:
      throw new TypeError("Body can not be decoded as form data");
  }
}

function blobOf(data, mimeType) {
  const { Blob } = core.loadExtScript("ext:deno_web/09_file.js");
  return new Blob([data], { type: mimeType === null ? "" : serializeMimeType(mimeType) });
}

// What the methods of the mixin make of a body that they have read.
const PACKED = {
  __proto__: null,
  arrayBuffer: (data) => TypedArrayPrototypeGetBuffer(toBytes(data)),
  blob: (data, listOf, object) => blobOf(data, mimeTypeOf(listOf(object))),
  bytes: (data) => toBytes(data),
  formData: (data, listOf, object) => formDataOf(data, mimeTypeOf(listOf(object))),
  json: (data) => JSONParse(toText(data)),
  text: (data) => toText(data),
};

// Finishes a class with a body. `bodyOf` and `listOf` give an object's body and header list, or throw, `isOne` says whether
// something is such an object, and `shown` names the properties that inspection shows.
function finishBodyClass(Class, bodyOf, listOf, isOne, shown) {
  const { prototype } = Class;
  webidl.configureInterface(Class);
  mixinBody(prototype, bodyOf, listOf);
  ObjectDefineProperties(prototype, {
    [SymbolFor("Deno.privateCustomInspect")]: hidden({
      writable: true,
      value(inspect, inspectOptions) {
        return inspect(
          createFilteredInspectProxy({ object: this, evaluate: isOne(this), keys: shown }),
          inspectOptions,
        );
      },
    }),
    [webidl.brand]: { __proto__: null, value: webidl.brand },
  });
  webidl.converters[Class.name] = webidl.createInterfaceConverter(Class.name, prototype);
}

function mixinBody(prototype, bodyOf, listOf) {
  async function read(object, pack) {
    const body = bodyOf(object);
    const data = body === null ? new Uint8Array() : await body.consume();
    return pack(data, listOf, object);
  }
  for (const name in PACKED) {
    const pack = PACKED[name];
    define(prototype, name, { value: { [name]() { return read(this, pack); } }[name], writable: true });
  }
  define(prototype, "body", { get() { return bodyOf(this)?.stream ?? null; } });
  define(prototype, "bodyUsed", { get() { return bodyOf(this)?.consumed() ?? false; } });
  define(prototype, "textStream", {
    writable: true,
    value: function textStream() {
      const body = bodyOf(this);
      if (body?.unusable()) throw new TypeError("Body already consumed.");
      const { emptyStream, textOf } = core.loadExtScript("ext:atoll/body_streams.js");
      return body === null ? emptyStream() : textOf(body.stream);
    },
  });
}

function define(prototype, name, descriptor) {
  ObjectDefineProperty(prototype, name, { __proto__: null, configurable: true, enumerable: true, ...descriptor });
}

function copyList(list) {
  return ArrayPrototypeMap(list, (header) => [header[0], header[1]]);
}

return { copyList, finishBodyClass };
})();
