"""Billing codes that stand for each disease, ICD-9-CM and ICD-10-CM, with their official titles."""

from __future__ import annotations

import numpy as np
import polars as pl

from m3h_pipeline.demo.story import DISEASES, Stays

# Disease, version, code, how often it is chosen among the disease's codes of that version, title.
# Under "other" are codes that belong to no disease of the story: every stay has some.
_TABLE = """
obesity 9 27800 3 Obesity, unspecified
obesity 9 27801 1 Morbid obesity
obesity 10 E669 3 Obesity, unspecified
obesity 10 E6601 1 Morbid (severe) obesity due to excess calories
hypertension 9 4019 5 Unspecified essential hypertension
hypertension 9 4011 1 Benign essential hypertension
hypertension 10 I10 5 Essential (primary) hypertension
hypertension 10 I169 1 Hypertensive crisis, unspecified
hyperlipidemia 9 2724 4 Other and unspecified hyperlipidemia
hyperlipidemia 9 2720 1 Pure hypercholesterolemia
hyperlipidemia 10 E785 4 Hyperlipidemia, unspecified
hyperlipidemia 10 E7800 1 Pure hypercholesterolemia, unspecified
diabetes 9 25000 4 Diabetes mellitus without mention of complication, type II or unspecified type, not stated as uncontrolled
diabetes 9 25060 1 Diabetes with neurological manifestations, type II or unspecified type, not stated as uncontrolled
diabetes 9 25002 1 Diabetes mellitus without mention of complication, type II or unspecified type, uncontrolled
diabetes 10 E119 3 Type 2 diabetes mellitus without complications
diabetes 10 E1165 1 Type 2 diabetes mellitus with hyperglycemia
diabetes 10 E1140 1 Type 2 diabetes mellitus with diabetic neuropathy, unspecified
diabetes 10 E1122 1 Type 2 diabetes mellitus with diabetic chronic kidney disease
chronic_kidney_disease 9 5859 2 Chronic kidney disease, unspecified
chronic_kidney_disease 9 5853 2 Chronic kidney disease, Stage III (moderate)
chronic_kidney_disease 9 5854 1 Chronic kidney disease, Stage IV (severe)
chronic_kidney_disease 10 N189 2 Chronic kidney disease, unspecified
chronic_kidney_disease 10 N183 2 Chronic kidney disease, stage 3 (moderate)
chronic_kidney_disease 10 N184 1 Chronic kidney disease, stage 4 (severe)
ischemic_heart_disease 9 41401 4 Coronary atherosclerosis of native coronary artery
ischemic_heart_disease 9 412 1 Old myocardial infarction
ischemic_heart_disease 9 41071 1 Subendocardial infarction, initial episode of care
ischemic_heart_disease 10 I2510 4 Atherosclerotic heart disease of native coronary artery without angina pectoris
ischemic_heart_disease 10 I252 1 Old myocardial infarction
ischemic_heart_disease 10 I214 1 Non-ST elevation (NSTEMI) myocardial infarction
valve_disease 9 4240 1 Mitral valve disorders
valve_disease 9 4241 2 Aortic valve disorders
valve_disease 10 I350 2 Nonrheumatic aortic (valve) stenosis
valve_disease 10 I340 1 Nonrheumatic mitral (valve) insufficiency
heart_failure 9 4280 3 Congestive heart failure, unspecified
heart_failure 9 42833 1 Acute on chronic diastolic heart failure
heart_failure 9 42823 1 Acute on chronic systolic heart failure
heart_failure 10 I509 2 Heart failure, unspecified
heart_failure 10 I5033 1 Acute on chronic diastolic (congestive) heart failure
heart_failure 10 I5023 1 Acute on chronic systolic (congestive) heart failure
heart_failure 10 I5022 1 Chronic systolic (congestive) heart failure
atrial_fibrillation 9 42731 5 Atrial fibrillation
atrial_fibrillation 9 42732 1 Atrial flutter
atrial_fibrillation 10 I4891 4 Unspecified atrial fibrillation
atrial_fibrillation 10 I480 2 Paroxysmal atrial fibrillation
peripheral_artery_disease 9 4439 3 Peripheral vascular disease, unspecified
peripheral_artery_disease 9 44021 1 Atherosclerosis of native arteries of the extremities with intermittent claudication
peripheral_artery_disease 10 I739 3 Peripheral vascular disease, unspecified
peripheral_artery_disease 10 I70219 1 Atherosclerosis of native arteries of extremities with intermittent claudication, unspecified extremity
copd 9 496 3 Chronic airway obstruction, not elsewhere classified
copd 9 49121 1 Obstructive chronic bronchitis with (acute) exacerbation
copd 9 4928 1 Other emphysema
copd 10 J449 3 Chronic obstructive pulmonary disease, unspecified
copd 10 J441 1 Chronic obstructive pulmonary disease with (acute) exacerbation
copd 10 J439 1 Emphysema, unspecified
tobacco_use_disorder 9 3051 1 Tobacco use disorder
tobacco_use_disorder 10 F17210 3 Nicotine dependence, cigarettes, uncomplicated
tobacco_use_disorder 10 F17200 1 Nicotine dependence, unspecified, uncomplicated
alcohol_use_disorder 9 30500 2 Alcohol abuse, unspecified
alcohol_use_disorder 9 30390 1 Other and unspecified alcohol dependence, unspecified
alcohol_use_disorder 9 29181 1 Alcohol withdrawal
alcohol_use_disorder 10 F1020 2 Alcohol dependence, uncomplicated
alcohol_use_disorder 10 F1010 1 Alcohol abuse, uncomplicated
alcohol_use_disorder 10 F10239 1 Alcohol dependence with withdrawal, unspecified
viral_hepatitis 9 07054 2 Chronic hepatitis C without mention of hepatic coma
viral_hepatitis 9 07070 1 Unspecified viral hepatitis C without hepatic coma
viral_hepatitis 9 07032 1 Chronic viral hepatitis B without mention of hepatic coma without mention of hepatitis delta
viral_hepatitis 10 B1920 2 Unspecified viral hepatitis C without hepatic coma
viral_hepatitis 10 B182 1 Chronic viral hepatitis C
viral_hepatitis 10 B181 1 Chronic viral hepatitis B without delta-agent
cirrhosis 9 5712 1 Alcoholic cirrhosis of liver
cirrhosis 9 5715 2 Cirrhosis of liver without mention of alcohol
cirrhosis 10 K7460 2 Unspecified cirrhosis of liver
cirrhosis 10 K7030 1 Alcoholic cirrhosis of liver without ascites
depression 9 311 3 Depressive disorder, not elsewhere classified
depression 9 29620 1 Major depressive affective disorder, single episode, unspecified
depression 10 F329 4 Major depressive disorder, single episode, unspecified
depression 10 F339 1 Major depressive disorder, recurrent, unspecified
anxiety 9 30000 3 Anxiety state, unspecified
anxiety 9 30002 1 Generalized anxiety disorder
anxiety 10 F419 4 Anxiety disorder, unspecified
anxiety 10 F411 1 Generalized anxiety disorder
hypothyroidism 9 2449 1 Unspecified acquired hypothyroidism
hypothyroidism 10 E039 1 Hypothyroidism, unspecified
gastroesophageal_reflux 9 53081 1 Esophageal reflux
gastroesophageal_reflux 10 K219 3 Gastro-esophageal reflux disease without esophagitis
gastroesophageal_reflux 10 K210 1 Gastro-esophageal reflux disease with esophagitis
gout 9 2749 2 Gout, unspecified
gout 9 27400 1 Gouty arthropathy, unspecified
gout 10 M109 3 Gout, unspecified
gout 10 M1A9XX0 1 Chronic gout, unspecified, without tophus (tophi)
osteoarthritis 9 71590 1 Osteoarthrosis, unspecified whether generalized or localized, site unspecified
osteoarthritis 9 71596 1 Osteoarthrosis, unspecified whether generalized or localized, lower leg
osteoarthritis 10 M1990 2 Unspecified osteoarthritis, unspecified site
osteoarthritis 10 M1711 1 Unilateral primary osteoarthritis, right knee
osteoarthritis 10 M1611 1 Unilateral primary osteoarthritis, right hip
prostatic_hyperplasia 9 60000 2 Hypertrophy (benign) of prostate without urinary obstruction and other lower urinary tract symptom (LUTS)
prostatic_hyperplasia 9 60001 1 Hypertrophy (benign) of prostate with urinary obstruction and other lower urinary tract symptoms (LUTS)
prostatic_hyperplasia 10 N400 2 Benign prostatic hyperplasia without lower urinary tract symptoms
prostatic_hyperplasia 10 N401 1 Benign prostatic hyperplasia with lower urinary tract symptoms
digestive_cancer 9 1539 1 Malignant neoplasm of colon, unspecified site
digestive_cancer 9 1579 1 Malignant neoplasm of pancreas, part unspecified
digestive_cancer 9 1541 1 Malignant neoplasm of rectum
digestive_cancer 10 C189 1 Malignant neoplasm of colon, unspecified
digestive_cancer 10 C259 1 Malignant neoplasm of pancreas, unspecified
digestive_cancer 10 C20 1 Malignant neoplasm of rectum
metastatic_cancer 9 1977 1 Malignant neoplasm of liver, secondary
metastatic_cancer 9 1970 1 Secondary malignant neoplasm of lung
metastatic_cancer 9 1985 1 Secondary malignant neoplasm of bone and bone marrow
metastatic_cancer 10 C787 1 Secondary malignant neoplasm of liver and intrahepatic bile duct
metastatic_cancer 10 C7800 1 Secondary malignant neoplasm of unspecified lung
metastatic_cancer 10 C7951 1 Secondary malignant neoplasm of bone
sepsis 9 0389 2 Unspecified septicemia
sepsis 9 99592 1 Severe sepsis
sepsis 9 78552 1 Septic shock
sepsis 10 A419 2 Sepsis, unspecified organism
sepsis 10 R6520 1 Severe sepsis without septic shock
sepsis 10 R6521 1 Severe sepsis with septic shock
pneumonia 9 486 4 Pneumonia, organism unspecified
pneumonia 9 4829 1 Bacterial pneumonia, unspecified
pneumonia 10 J189 4 Pneumonia, unspecified organism
pneumonia 10 J159 1 Unspecified bacterial pneumonia
urinary_tract_infection 9 5990 1 Urinary tract infection, site not specified
urinary_tract_infection 10 N390 1 Urinary tract infection, site not specified
acute_kidney_injury 9 5849 4 Acute kidney failure, unspecified
acute_kidney_injury 9 5845 1 Acute kidney failure with lesion of tubular necrosis
acute_kidney_injury 10 N179 4 Acute kidney failure, unspecified
acute_kidney_injury 10 N170 1 Acute kidney failure with tubular necrosis
respiratory_failure 9 51881 3 Acute respiratory failure
respiratory_failure 9 51884 1 Acute and chronic respiratory failure
respiratory_failure 10 J9601 3 Acute respiratory failure with hypoxia
respiratory_failure 10 J9600 1 Acute respiratory failure, unspecified whether with hypoxia or hypercapnia
respiratory_failure 10 J9621 1 Acute and chronic respiratory failure with hypoxia
pleural_effusion 9 5119 3 Unspecified pleural effusion
pleural_effusion 9 51189 1 Other specified forms of effusion, except tuberculous
pleural_effusion 10 J90 3 Pleural effusion, not elsewhere classified
pleural_effusion 10 J918 1 Pleural effusion in other conditions classified elsewhere
gastrointestinal_bleeding 9 5789 1 Hemorrhage of gastrointestinal tract, unspecified
gastrointestinal_bleeding 9 5781 1 Blood in stool
gastrointestinal_bleeding 9 53240 1 Chronic or unspecified duodenal ulcer with hemorrhage, without mention of obstruction
gastrointestinal_bleeding 10 K922 2 Gastrointestinal hemorrhage, unspecified
gastrointestinal_bleeding 10 K921 1 Melena
gastrointestinal_bleeding 10 K264 1 Chronic or unspecified duodenal ulcer with hemorrhage
anemia 9 2859 2 Anemia, unspecified
anemia 9 2851 1 Acute posthemorrhagic anemia
anemia 9 28529 1 Anemia of other chronic disease
anemia 10 D649 2 Anemia, unspecified
anemia 10 D62 2 Acute posthemorrhagic anemia
anemia 10 D509 1 Iron deficiency anemia, unspecified
hyponatremia 9 2761 1 Hyposmolality and/or hyponatremia
hyponatremia 10 E871 1 Hypo-osmolality and hyponatremia
pancreatitis 9 5770 2 Acute pancreatitis
pancreatitis 9 5771 1 Chronic pancreatitis
pancreatitis 10 K8590 2 Acute pancreatitis without necrosis or infection, unspecified
pancreatitis 10 K861 1 Other chronic pancreatitis
thrombocytopenia 9 2875 3 Thrombocytopenia, unspecified
thrombocytopenia 9 28749 1 Other secondary thrombocytopenia
thrombocytopenia 10 D696 3 Thrombocytopenia, unspecified
thrombocytopenia 10 D6959 1 Other secondary thrombocytopenia
coagulopathy 9 2869 2 Other and unspecified coagulation defects
coagulopathy 9 2867 1 Acquired coagulation factor deficiency
coagulopathy 10 D689 2 Coagulation defect, unspecified
coagulopathy 10 D684 1 Acquired coagulation factor deficiency
venous_thromboembolism 9 41519 2 Other pulmonary embolism and infarction
venous_thromboembolism 9 45340 1 Acute venous embolism and thrombosis of unspecified deep vessels of lower extremity
venous_thromboembolism 10 I2699 2 Other pulmonary embolism without acute cor pulmonale
venous_thromboembolism 10 I82409 1 Acute embolism and thrombosis of unspecified deep veins of unspecified lower extremity
stroke 9 43491 3 Cerebral artery occlusion, unspecified with cerebral infarction
stroke 9 431 1 Intracerebral hemorrhage
stroke 10 I639 3 Cerebral infarction, unspecified
stroke 10 I619 1 Nontraumatic intracerebral hemorrhage, unspecified
epilepsy 9 78039 2 Other convulsions
epilepsy 9 34590 1 Epilepsy, unspecified, without mention of intractable epilepsy
epilepsy 10 G40909 2 Epilepsy, unspecified, not intractable, without status epilepticus
epilepsy 10 R569 1 Unspecified convulsions
encephalopathy 9 34830 1 Encephalopathy, unspecified
encephalopathy 9 34831 1 Metabolic encephalopathy
encephalopathy 9 2930 1 Delirium due to conditions classified elsewhere
encephalopathy 10 G9340 1 Encephalopathy, unspecified
encephalopathy 10 G9341 1 Metabolic encephalopathy
encephalopathy 10 F05 1 Delirium due to known physiological condition
other 9 V5861 1 Long-term (current) use of anticoagulants
other 9 V1582 1 Personal history of tobacco use
other 9 V4581 1 Aortocoronary bypass status
other 9 V5867 1 Long-term (current) use of insulin
other 9 2762 1 Acidosis
other 9 2768 1 Hypopotassemia
other 9 2767 1 Hyperpotassemia
other 9 27651 1 Dehydration
other 9 78097 1 Altered mental status
other 9 7962 1 Elevated blood pressure reading without diagnosis of hypertension
other 9 49390 1 Asthma, unspecified type, unspecified
other 9 32723 1 Obstructive sleep apnea (adult)(pediatric)
other 9 V4365 1 Knee joint replacement
other 9 V1251 1 Personal history of venous thrombosis and embolism
other 9 V4582 1 Percutaneous transluminal coronary angioplasty status
other 9 V667 1 Encounter for palliative care
other 10 Z7901 1 Long term (current) use of anticoagulants
other 10 Z87891 1 Personal history of nicotine dependence
other 10 Z951 1 Presence of aortocoronary bypass graft
other 10 Z794 1 Long term (current) use of insulin
other 10 E872 1 Acidosis
other 10 E876 1 Hypokalemia
other 10 E875 1 Hyperkalemia
other 10 E860 1 Dehydration
other 10 R4182 1 Altered mental status, unspecified
other 10 I959 1 Hypotension, unspecified
other 10 J45909 1 Unspecified asthma, uncomplicated
other 10 G4733 1 Obstructive sleep apnea (adult) (pediatric)
other 10 Z96651 1 Presence of right artificial knee joint
other 10 Z86718 1 Personal history of other venous thrombosis and embolism
other 10 Y929 1 Unspecified place or not applicable
other 10 Z515 1 Encounter for palliative care
"""


def _table() -> pl.DataFrame:
    rows = [line.split(maxsplit=4) for line in _TABLE.strip().splitlines()]
    columns = ["disease", "icd_version", "icd_code", "weight", "long_title"]
    return pl.DataFrame(rows, schema=columns, orient="row").with_columns(
        pl.col("icd_version", "weight").cast(pl.Int64)
    )


TABLE = _table()


def dictionary() -> pl.DataFrame:
    """Rows of d_icd_diagnoses.

    >>> dictionary().filter(icd_code="I10")["long_title"].to_list()
    ['Essential (primary) hypertension']
    """
    return TABLE.sort("icd_version", "icd_code")


def diagnoses(rng: np.random.Generator, stays: Stays) -> pl.DataFrame:
    """Rows of diagnoses_icd. A few stays have no code at all: not yet billed."""
    rows = []
    billed = rng.random(len(stays)) > 0.01
    for version in (9, 10):
        of_version = np.flatnonzero((stays.icd_version == version) & billed)
        for k, disease in enumerate([*DISEASES, "other"]):
            codes = TABLE.filter(icd_version=version, disease=disease)
            if disease == "other":
                stay = np.repeat(of_version, 1 + rng.poisson(2.5, len(of_version)))
            else:
                stay = of_version[stays.coded[of_version, k]]
            weights = codes["weight"].to_numpy() / codes["weight"].sum()
            chosen = codes["icd_code"].gather(rng.choice(len(codes), len(stay), p=weights))
            rows.append(
                pl.DataFrame(
                    {"stay": stay, "icd_code": chosen, "icd_version": np.full(len(stay), version)}
                )
            )
    found = pl.concat(rows).unique(maintain_order=True)
    # The order of billing: by no rule that tells anything.
    found = found.with_columns(order=rng.random(len(found))).sort("stay", "order")
    index = found["stay"].to_numpy()
    return found.with_columns(
        subject_id=stays.subject_id[stays.patient[index]],
        hadm_id=stays.hadm_id[index],
        seq_num=pl.int_range(1, pl.len() + 1).over("stay"),
    )
