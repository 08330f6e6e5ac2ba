// GGUF models in several files: NAME-00001-of-00005.gguf and so on. Each is a GGUF file with its own tensors and
// says which part it is; the first has the model's metadata.
#pragma once

#include <memory>

#include "viaduct/formats/gguf.h"

namespace viaduct::formats {

/// One file, whatever it says of others. UserError as open_gguf.
std::unique_ptr<GgufFile> open_gguf_part(const Path& path);

/// The files of the model that `opened` is a part of, in their order; its own file when it is a model of its own.
/// UserError for counts that make no sense, and for a name that does not say which part the file is.
std::vector<Path> gguf_parts(const GgufFile& opened);

}  // namespace viaduct::formats
