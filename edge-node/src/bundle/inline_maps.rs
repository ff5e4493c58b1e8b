//! Puts source maps into the modules that they belong to: a debugger has no other way to them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Bundle;
use crate::registry::ModuleKind;

impl Bundle {
    /// Ends each module that has a source map with that map.
    pub fn inline_source_maps(&mut self) {
        let maps = self.modules.iter().filter(|module| module.kind == ModuleKind::SourceMap);
        let maps: Vec<_> = maps.cloned().collect();
        for map in maps {
            let of = map.name.strip_suffix(".map");
            let Some(module) = self.modules.iter_mut().find(|module| of == Some(&*module.name))
            else {
                continue;
            };
            // V8 goes by the last such comment.
            let head = b"\n//# sourceMappingURL=data:application/json;base64,";
            let encoded = STANDARD.encode(&map.bytes);
            module.bytes = [&module.bytes[..], head, encoded.as_bytes(), b"\n"].concat().into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Module, ScriptFormat};

    #[test]
    fn a_module_ends_with_its_own_map() {
        let module = |name: &str, kind, text: &'static str| Module {
            name: name.to_owned(),
            kind,
            bytes: text.into(),
        };
        let mut bundle = Bundle {
            format: ScriptFormat::Modules,
            main_module: "index.js".to_owned(),
            modules: vec![
                module("index.js", ModuleKind::EsModule, "main();"),
                module("other.js", ModuleKind::EsModule, "other();"),
                module("index.js.map", ModuleKind::SourceMap, "{}"),
                module("gone.js.map", ModuleKind::SourceMap, "{}"),
            ],
            inputs: Vec::new(),
            warnings: String::new(),
        };
        bundle.inline_source_maps();
        let expected = "main();\n//# sourceMappingURL=data:application/json;base64,e30=\n";
        assert_eq!(bundle.modules[0].bytes, expected);
        assert_eq!(bundle.modules[1].bytes, "other();");
        assert_eq!(bundle.modules.len(), 4);
    }
}
