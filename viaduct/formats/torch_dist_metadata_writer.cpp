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

void write_properties(PickleWriter& to, DType dtype) {
  begin_object(to, kModule, "TensorProperties");
  to.mark();
  to.global("torch", torch_name(dtype));
  to.global("torch.serialization", "_get_layout");
  to.string("torch.strided");
  to.tuple(1);
  to.call();
  to.boolean(false);  // requires_grad
  to.global(kModule, "_MEM_FORMAT_ENCODING");
  to.integer(0);  // contiguous
  to.tuple(1);
  to.call();
  to.boolean(false);  // pin_memory
  to.tuple(5);
  to.build();
}

class MetadataWriter {
 public:
  MetadataWriter(PickleWriter& to, const TorchDistIndex& index) : to_(to), index_(index) {}

  void tensor(const TorchDistTensor& tensor) {
    begin_object(to_, kModule, "TensorStorageMetadata");
    to_.empty_dict();
    to_.mark();
    to_.string("properties");
    write_properties(to_, tensor.dtype);
    to_.string("size");
    size(tensor.shape);
    to_.string("chunks");
    to_.empty_list();
    to_.mark();
    for (const TorchDistChunk& chunk : tensor.chunks) {
      to_.repeat(chunk_begin_, [&] {
        begin_object(to_, kModule, "ChunkStorageMetadata");
        to_.empty_dict();
        to_.mark();
        to_.string("offsets");
      });
      size(chunk.offset);
      to_.string("sizes");
      size(chunk.size);
      end_object();
    }
    to_.appends();
    end_object();
  }

  void place(uint32_t name, const Shape* offset, const TorchDistPlace& place) {
    to_.repeat(index_begin_, [&] {
      begin_object(to_, kModule, "MetadataIndex");
      to_.empty_dict();
      to_.mark();
      to_.string("fqn");
    });
    to_.recall(name);
    if (offset != nullptr) {
      to_.string("offset");
      size(*offset);
    }
    to_.repeat(storage_begin_, [&] {
      to_.string("index");
      to_.none();
      end_object();
      begin_object(to_, "torch.distributed.checkpoint.filesystem", "_StorageInfo");
      to_.empty_dict();
      to_.mark();
      to_.string("relative_path");
    });
    to_.string(index_.files.at(place.file));
    to_.repeat(storage_offset_, [&] { to_.string("offset"); });
    to_.integer(static_cast<int64_t>(place.offset));
    to_.repeat(storage_length_, [&] { to_.string("length"); });
    to_.integer(static_cast<int64_t>(place.size));
    end_object();
  }

 private:
  void end_object() {
    to_.set_items();
    to_.build();
  }

  void size(const Shape& shape) {
    to_.repeat(size_begin_, [&] { to_.global("torch", "Size"); });
    if (shape.rank() > 3) to_.mark();
    for (const int64_t value : shape) to_.integer(value);
    to_.tuple(static_cast<size_t>(shape.rank()));
    to_.tuple(1);
    to_.call();
  }

  PickleWriter& to_;
  const TorchDistIndex& index_;
  PickleWriter::Pattern chunk_begin_, index_begin_, storage_begin_, storage_offset_, storage_length_, size_begin_;
};

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
  MetadataWriter writer(to, index);
  constexpr size_t kChunkBytes = 192, kObjectBytes = 160;  // about what an entry takes, its place included
  size_t bytes = 4096 + kObjectBytes * index.objects.size();
  for (const TorchDistTensor& tensor : index.tensors) bytes += kChunkBytes * (tensor.chunks.size() + 1);
  to.reserve(bytes);
  begin_object(to, kModule, "Metadata");
  to.empty_dict();
  to.mark();
  to.string("state_dict_metadata");
  to.empty_dict();
  to.mark();
  // The names come again below, as numbers.
  std::vector<uint32_t> tensor_names, object_names;
  for (const TorchDistTensor& tensor : index.tensors) {
    tensor_names.push_back(to.string(tensor.name));
    writer.tensor(tensor);
  }
  for (const TorchDistObject& object : index.objects) {
    object_names.push_back(to.string(object.name));
    begin_object(to, kModule, "BytesStorageMetadata");
  }
  to.set_items();
  to.string("planner_data");
  to.none();
  to.string("storage_data");
  to.empty_dict();
  to.mark();
  for (size_t i = 0; i < index.objects.size(); ++i) writer.place(object_names[i], nullptr, index.objects[i].place);
  for (size_t i = 0; i < index.tensors.size(); ++i)
    for (const TorchDistChunk& chunk : index.tensors[i].chunks)
      writer.place(tensor_names[i], &chunk.offset, chunk.place);
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
