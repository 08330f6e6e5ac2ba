#include "viaduct/bridge/kept_tensors.h"

#include "viaduct/formats/safetensors_writer.h"

namespace viaduct::bridge {

formats::TargetLayout add_kept_tensors(const Checkpoint& source, const std::vector<int32_t>& originals,
                                       uint32_t first_tensor, PlanBuilder& builder) {
  if (source.kept().empty() && originals.empty()) return {};
  formats::SafetensorsWriterOptions options;
  options.shards.push_back({std::string(kKeptTensorsFile), ""});
  formats::SafetensorsWriter writer(options);
  uint32_t tensor = first_tensor;
  std::vector<int32_t> ids = source.kept();
  // A weight of codes is kept by its scales.
  for (const int32_t id : originals)
    if (!source.stored().tensors[static_cast<size_t>(id)].chunks.at(0).place.is_scaled()) ids.push_back(id);
  for (const int32_t id : ids) {
    const PlainTensor& kept = source.stored().tensors[static_cast<size_t>(id)];
    formats::StoredTensor stored;
    stored.name = kept.name;
    stored.dtype = kept.dtype;
    stored.shape = kept.shape;
    writer.add(std::move(stored), 0);
    builder.add(Shape::filled(kept.shape.rank(), 0), kept.shape, kept.dtype, {whole_piece(id, kept.shape)},
                tensor++, 0);
  }
  return writer.finish();
}

void append_layout(formats::TargetLayout& to, formats::TargetLayout more) {
  const auto first_file = static_cast<uint32_t>(to.files.size());
  const auto first_tensor = static_cast<uint32_t>(to.tensors.size());
  for (formats::TargetFile& file : more.files) to.files.push_back(std::move(file));
  to.tensors.reserve(to.tensors.size() + more.tensors.size());
  for (formats::StoredTensor& tensor : more.tensors) {
    for (formats::StoredChunk& chunk : tensor.chunks) chunk.file += first_file;
    to.tensors.push_back(std::move(tensor));
  }
  for (formats::Literal& literal : more.literals) {
    literal.file += first_file;
    to.literals.push_back(std::move(literal));
  }
  for (formats::CrcField& field : more.crc_fields) {
    field.file += first_file;
    field.tensor += first_tensor;
    to.crc_fields.push_back(field);
  }
}

}  // namespace viaduct::bridge
