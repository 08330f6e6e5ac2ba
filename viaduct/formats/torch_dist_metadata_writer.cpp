// `.metadata` as torch.distributed.checkpoint.metadata.Metadata.
#include "viaduct/core/error.h"
#include "viaduct/formats/pickle_writer.h"
#include "viaduct/formats/torch_dist_metadata.h"

namespace viaduct::formats {

namespace {

constexpr std::string_view kModule = "torch.distributed.checkpoint.metadata";

void begin_object(PickleWriter& to, std::string_view module, std::string_view name) {
  to.global(module, name);
  to.empty_tuple();
  to.new_object();
}

void write_size(PickleWriter& to, const Shape& shape) {
  to.global("torch", "Size");
  if (shape.rank() > 3) to.mark();
  for (const int64_t size : shape) to.integer(size);
  to.tuple(static_cast<size_t>(shape.rank()));
  to.tuple(1);
  to.call();
}

void write_properties(PickleWriter& to, DType dtype) {
  begin_object(to, kModule, "TensorProperties");
  to.mark();
  to.global("torch", torch_name(dtype));
  to.global("torch.serialization", "_get_layout");
  to.string("torch.strided");
  to.tuple(1);
  to.call();
  to.boolean(false);   // requires_grad
  to.global(kModule, "_MEM_FORMAT_ENCODING");
  to.integer(0);       // contiguous
  to.tuple(1);
  to.call();
  to.boolean(false);   // pin_memory
  to.tuple(5);
  to.build();
}

void write_tensor(PickleWriter& to, const TorchDistTensor& tensor) {
  begin_object(to, kModule, "TensorStorageMetadata");
  to.empty_dict();
  to.mark();
  to.string("properties");
  write_properties(to, tensor.dtype);
  to.string("size");
  write_size(to, tensor.shape);
  to.string("chunks");
  to.empty_list();
  to.mark();
  for (const TorchDistChunk& chunk : tensor.chunks) {
    begin_object(to, kModule, "ChunkStorageMetadata");
    to.empty_dict();
    to.mark();
    to.string("offsets");
    write_size(to, chunk.offset);
    to.string("sizes");
    write_size(to, chunk.size);
    to.set_items();
    to.build();
  }
  to.appends();
  to.set_items();
  to.build();
}

void write_place(PickleWriter& to, const TorchDistIndex& index, const std::string& name, const Shape* offset,
                 const TorchDistPlace& place) {
  begin_object(to, kModule, "MetadataIndex");
  to.empty_dict();
  to.mark();
  to.string("fqn");
  to.string(name);
  if (offset != nullptr) {
    to.string("offset");
    write_size(to, *offset);
  }
  to.string("index");
  to.none();
  to.set_items();
  to.build();
  begin_object(to, "torch.distributed.checkpoint.filesystem", "_StorageInfo");
  to.empty_dict();
  to.mark();
  to.string("relative_path");
  to.string(index.files.at(place.file));
  to.string("offset");
  to.integer(static_cast<int64_t>(place.offset));
  to.string("length");
  to.integer(static_cast<int64_t>(place.size));
  to.set_items();
  to.build();
}

void write_storage_meta(PickleWriter& to, std::string_view checkpoint_id) {
  if (checkpoint_id.empty()) return to.none();
  begin_object(to, kModule, "StorageMeta");
  to.empty_dict();
  to.mark();
  to.string("checkpoint_id");
  to.string(checkpoint_id);
  to.string("save_id");
  to.none();
  to.string("load_id");
  to.none();
  to.string("modules");
  to.empty_list();
  to.set_items();
  to.build();
}

}  // namespace

std::string write_torch_dist_metadata(const TorchDistIndex& index, std::string_view checkpoint_id) {
  PickleWriter to(4);
  begin_object(to, kModule, "Metadata");
  to.empty_dict();
  to.mark();
  to.string("state_dict_metadata");
  to.empty_dict();
  to.mark();
  for (const TorchDistTensor& tensor : index.tensors) {
    to.string(tensor.name);
    write_tensor(to, tensor);
  }
  for (const TorchDistObject& object : index.objects) {
    to.string(object.name);
    begin_object(to, kModule, "BytesStorageMetadata");
  }
  to.set_items();
  to.string("planner_data");
  to.none();
  to.string("storage_data");
  to.empty_dict();
  to.mark();
  for (const TorchDistObject& object : index.objects) write_place(to, index, object.name, nullptr, object.place);
  for (const TorchDistTensor& tensor : index.tensors)
    for (const TorchDistChunk& chunk : tensor.chunks)
      write_place(to, index, tensor.name, &chunk.offset, chunk.place);
  to.set_items();
  to.string("storage_meta");
  write_storage_meta(to, checkpoint_id);
  to.string("version");
  to.string("1.0.0");
  to.set_items();
  to.build();
  return to.finish();
}

}  // namespace viaduct::formats
