use super::*;

fn process(pid: u32, used_gpu_memory: UsedGpuMemory) -> ProcessInfo {
    ProcessInfo { pid, used_gpu_memory, gpu_instance_id: None, compute_instance_id: None }
}

#[test]
fn opens_a_device_or_names_the_remedy() {
    match Nvml::open(0) {
        Ok(nvml) => {
            let identity = nvml.identity().unwrap();
            assert!(identity.uuid.starts_with("GPU-"), "{identity:?}");
            assert_eq!(Nvml::open_uuid(&identity.uuid).unwrap().identity().unwrap(), identity);
            assert!(nvml.clocks().unwrap().is_none_or(|clocks| clocks.sm_mhz > 0));
            let none = Nvml::open(9999).unwrap_err().to_string();
            assert!(none.starts_with("no NVIDIA device 9999"), "{none}");
        }
        Err(error) => {
            let message = error.to_string();
            assert!(message.starts_with("NVML not found: "), "{message}");
            assert!(message.contains("install the NVIDIA driver"), "{message}");
            assert!(message.ends_with("use the device cpu"), "{message}");
        }
    }
}

#[test]
fn finds_this_process_among_others() {
    let list = [
        process(7, UsedGpuMemory::Used(100)),
        process(8, UsedGpuMemory::Used(1)),
        process(7, UsedGpuMemory::Used(20)),
        process(9, UsedGpuMemory::Unavailable),
    ];
    assert_eq!(used_by(7, &list), Some(120));
    assert_eq!(used_by(9, &list), None, "unknown is not zero");
    assert_eq!(used_by(10, &list), None);
}

#[test]
fn says_where_the_number_was_read() {
    let device = Some(DeviceMemory { used_bytes: 500, total_bytes: 1000 });
    let read =
        |listed, device, baseline| process_memory(listed, device, baseline).map(|m| (m.bytes, m.source));
    assert_eq!(read(Some(70), device, Some(400)), Some((70, MemorySource::Process)));
    assert_eq!(read(None, device, Some(400)), Some((100, MemorySource::DeviceLessBaseline)));
    assert_eq!(read(None, device, Some(600)), Some((0, MemorySource::DeviceLessBaseline)), "others let go");
    assert_eq!(read(None, device, None), None);
    assert_eq!(read(None, None, Some(400)), None);
}

#[test]
fn not_supported_is_an_answer() {
    assert!(matches!(answer::<u64>("energy used", Err(NvmlError::NotSupported)), Ok(None)));
    assert!(matches!(answer::<u64>("energy used", Err(NvmlError::GpuLost)), Err(MeterError::Nvml { .. })));
    assert_eq!(cuda_version(12080), "12.8");
    assert_eq!(cuda_version(13010), "13.1");
}
