// CompressionStream and DecompressionStream, a step at a time: between two steps the isolate's limits are looked at,
// however much a few bytes stand for. Loaded late. https://compression.spec.whatwg.org/
(function () {
const { core, primordials } = __bootstrap;
const { op_codec_close, op_codec_end, op_codec_new, op_codec_read, op_codec_write } = core.ops;
const { ObjectPrototypeIsPrototypeOf, SymbolFor, TypedArrayPrototypeGetByteLength } = primordials;
const webidl = core.loadExtScript("ext:deno_webidl/00_webidl.js");
const { createFilteredInspectProxy } = core.loadExtScript("ext:deno_web/01_console.js");
const { TransformStream } = core.loadExtScript("ext:deno_web/06_streams.js");
const { bytesOf } = core.loadExtScript("ext:atoll/bytes.js");

webidl.converters.CompressionFormat = webidl.createEnumConverter(
  "CompressionFormat",
  ["deflate", "deflate-raw", "gzip", "brotli"],
);

function coded(format, isDecoder, prefix) {
  const codec = op_codec_new(format, isDecoder);
  const pass = (controller) => {
    for (;;) {
      const output = op_codec_read(codec);
      if (TypedArrayPrototypeGetByteLength(output) === 0) return;
      controller.enqueue(output);
    }
  };
  return new TransformStream({
    __proto__: null,
    transform(chunk, controller) {
      const bytes = bytesOf(webidl.converters.BufferSource(chunk, prefix, "chunk"));
      let taken = 0;
      for (let at = 0; at < TypedArrayPrototypeGetByteLength(bytes); at += taken) {
        taken = op_codec_write(codec, bytes, at);
        if (taken === 0) return;
        pass(controller);
      }
    },
    flush(controller) {
      op_codec_end(codec);
      pass(controller);
      op_codec_close(codec);
    },
    cancel() {
      op_codec_close(codec);
    },
  });
}

const inspected = SymbolFor("Deno.privateCustomInspect");

function streamClass(name, isDecoder) {
  const prefix = `Failed to construct '${name}'`;
  // A class has the name of the property that it is made for.
  const { [name]: Interface } = {
    __proto__: null,
    [name]: class {
      #transform;

      constructor(format) {
        webidl.requiredArguments(arguments.length, 1, prefix);
        this.#transform = coded(webidl.converters.CompressionFormat(format, prefix, "Argument 1"), isDecoder, prefix);
      }

      get readable() {
        return this.#transform.readable;
      }

      get writable() {
        return this.#transform.writable;
      }

      [inspected](inspect, options) {
        const evaluate = ObjectPrototypeIsPrototypeOf(Interface.prototype, this);
        const keys = ["readable", "writable"];
        return inspect(createFilteredInspectProxy({ __proto__: null, object: this, evaluate, keys }), options);
      }
    },
  };
  webidl.configureInterface(Interface);
  return Interface;
}

return {
  CompressionStream: streamClass("CompressionStream", false),
  DecompressionStream: streamClass("DecompressionStream", true),
};
})();
