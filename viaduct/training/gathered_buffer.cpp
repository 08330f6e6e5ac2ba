#include "viaduct/training/gathered_buffer.h"

#include <cstddef>

namespace viaduct::training {

BufferPlaces gathered_places(std::span<const BufferedParameter> parameters, std::optional<int64_t> bucket_size) {
  constexpr int64_t kAlignment = 64;
  BufferPlaces places;
  places.begins.resize(parameters.size());
  int64_t bucket = 0;  // where the current bucket begins
  int64_t end = 0;     // of what is in it
  const auto close = [&](int64_t length) {
    bucket += length;
    end = 0;
  };
  for (size_t i = parameters.size(); i-- > 0;) {
    const BufferedParameter& parameter = parameters[i];
    int64_t begin = (end + kAlignment - 1) / kAlignment * kAlignment;
    if (parameter.own_bucket && end > 0) {
      close(begin);  // megatron-core closes it behind the padding
      begin = 0;
    }
    places.begins[i] = bucket + begin;
    end = begin + parameter.elements;
    if (parameter.own_bucket || (bucket_size && end >= *bucket_size)) close(end);
  }
  places.length = bucket + end;
  return places;
}

}  // namespace viaduct::training
